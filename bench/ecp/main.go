// Signatures through Google's enterprise-certificate-proxy, for bench/broker.py: one signer process, N goroutines that share its key.
// Prints: count seconds p50-us p99-us failures.
package main

import (
	"crypto"
	"crypto/sha512"
	"fmt"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/googleapis/enterprise-certificate-proxy/client"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: ecp CONFIG CLIENTS SECONDS")
		os.Exit(2)
	}
	clients, _ := strconv.Atoi(os.Args[2])
	seconds, _ := strconv.ParseFloat(os.Args[3], 64)
	key, err := client.Cred(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer key.Close()
	digest := sha512.Sum384([]byte("bench"))
	var mutex sync.Mutex
	var times []float64
	failures := 0
	begin := time.Now()
	end := begin.Add(time.Duration(seconds * float64(time.Second)))
	var group sync.WaitGroup
	for i := 0; i < clients; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			var own []float64
			failed := 0
			for time.Now().Before(end) {
				from := time.Now()
				if _, err := key.Sign(nil, digest[:], crypto.SHA384); err != nil {
					failed++
				}
				own = append(own, float64(time.Since(from).Microseconds()))
			}
			mutex.Lock()
			times, failures = append(times, own...), failures+failed
			mutex.Unlock()
		}()
	}
	group.Wait()
	took := time.Since(begin).Seconds()
	sort.Float64s(times)
	at := func(part float64) float64 { return times[int(part*float64(len(times)-1))] }
	fmt.Printf("%d %f %f %f %d\n", len(times), took, at(0.5), at(0.99), failures)
}
