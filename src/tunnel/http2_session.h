#pragma once

// HTTP/2 as a CONNECT client (RFC 9113, section 8.5), sans-IO: bytes in, bytes out, streams in between. nghttp2 beneath
// keeps the protocol's rules (header validation, flow control, stream states); this keeps ours:
//
//   - A paused stream holds at most its window (4 MiB) and stalls nobody: the connection's window is given back as bytes
//     arrive. When all that is held passes a limit, the windows of all streams shrink (RFC 9113 section 6.9.2), so that a
//     hundred paused streams cost what four do; only a gateway that ignores that has its whole connection held back.
//   - Batches: all that one read brought for a stream is handed over together; small writes of one loop turn leave in one
//     frame and all frames in full TLS records.
//   - Nothing of a stream's owner is called from inside nghttp2: what happens is noted and told when nghttp2 has returned.
//
// An idle stream costs one Http2Stream, nghttp2's stream and its deferred DATA item: under 1 KiB together.

#include <nghttp2/nghttp2.h>

#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/owned.h"
#include "tls/byte_queue.h"
#include "tunnel/open_request.h"
#include "tunnel/opener.h"
#include "tunnel/stream.h"

namespace wayleave::tunnel {

class Http2Session;

// One tunnel. Owned by its session while nghttp2 knows it, and by the flow's Stream.
struct Http2Stream : Carrier, std::enable_shared_from_this<Http2Stream> {
  Http2Stream(Http2Session& owner, std::shared_ptr<OpenRequest> asked);
  void abandonRequest() override;
  Error lateness() const override;

  Http2Session* session;                 // nullptr once it is over
  std::shared_ptr<OpenRequest> request;  // until answered
  StreamEvents& events;
  int32_t id = -1;
  int status = 0;         // of the newest head
  int lastPart = -1;      // index of the newest data event of this batch
  uint32_t headBytes = 0;
  Bytes held;             // received, not taken
  tls::ByteQueue small;   // small writes, until the end of the turn
  ByteView direct;        // a big write, while it runs
  bool paused = false;
  bool finishing = false;  // our last byte is written, or queued
  bool finished = false;   // END_STREAM sent
  bool ended = false;      // END_STREAM received
  bool endHeld = false;    // received, but bytes before it are still held
  bool oversizeHead = false;
  bool unsent = false;
  bool dirty = false;
  bool blocked = false;
  bool resuming = false;
  bool left = false;         // its request was sent
  bool tinyWritten = false;  // our newest write was tiny, and nothing came back since
};

// What a session needs of its surroundings.
class Http2Host {
 public:
  virtual ~Http2Host() = default;
  virtual void sendBytes(ByteView bytes) = 0;    // in order; queued, not flushed
  virtual size_t sendRoom() const = 0;           // 0: wait for Http2Session::drained()
  virtual void wantDrained() = 0;
  virtual void wantTurn() = 0;                   // call turn() once, soon, and flush
  virtual void wantTurnLater() = 0;              // the same, but more may come: not sooner than a moment after the last turn
  virtual void retry(std::shared_ptr<OpenRequest> request, const Error& why) = 0;  // the gateway did not process it
  virtual void streamsChanged() = 0;             // one ended
  virtual void windowClosed(bool closed) = 0;    // the gateway takes no more of any stream; or it does again
};

class Http2Session {
 public:
  // ztunnel's numbers. 4 MiB for a stream: 40 MB/s over 100 ms of round trip. The connection's window is four times that:
  // with equal windows a reader that ignores stream A until data comes on stream B waits for ever (ztunnel PR 1539).
  static constexpr int32_t kStreamWindow = 4 << 20;
  static constexpr int32_t kConnectionWindow = 16 << 20;
  // All that paused streams hold before the connection itself is held back: eight full streams.
  static constexpr size_t kMaxHeldBytes = 32u << 20;
  // From here on every stream's window shrinks, to RFC 9113's default; 100 of those are 6.4 MiB. Below a quarter of it they
  // widen again.
  static constexpr size_t kNarrowAtBytes = 8u << 20;
  static constexpr int32_t kNarrowWindow = 65'535;
  // Go: 100, Hyper: 200, RFC 9113's recommended minimum: 100. More flows share one congestion window and one loss.
  static constexpr uint32_t kMaxStreams = 100;
  static constexpr uint32_t kMaxHeadBytes = 16 * 1024;
  // Streams that we reset before the connection takes no new ones. Gateways count resets as abuse since CVE-2023-44487 and
  // end the connection with all that is on it: Envoy when half of 500 streams were, nghttp2 after a burst of 1,000.
  static constexpr size_t kMaxResets = 250;

  Http2Session(Http2Host& host, WorkerBuffers& buffers);
  ~Http2Session();
  Http2Session(const Http2Session&) = delete;
  Http2Session& operator=(const Http2Session&) = delete;

  // Queues the connection preface. Errors: Internal.
  Status start();
  // Takes what arrived; tells streams; queues answers. Errors: GatewayProtocolError, after which nothing goes on.
  Status receive(std::span<uint8_t> bytes);
  // Frames what streams wrote and what nghttp2 wants to say. The same errors.
  Status turn();
  void drained() { wakeBlocked(); }

  bool accepts() const;  // one more request
  int32_t request(std::shared_ptr<OpenRequest> request);  // the stream's id, negative when there was none to be had
  // The gateway serves fewer streams at once than it says.
  void serveAtMost(size_t streams) { served_ = streams; }
  std::shared_ptr<OpenRequest> unanswered(int32_t id) const;  // nullptr: answered, or over
  std::shared_ptr<OpenRequest> withdraw(int32_t id);          // unanswered(id), reset at the gateway and nobody's now
  int32_t newestAnswered() const { return newestAnswered_; }
  size_t answeredStreams() const;
  size_t streams() const { return streams_.size(); }
  bool draining() const { return draining_; }
  void stopAccepting() { draining_ = true; }
  bool answeredBefore() const { return answered_; }
  void ping();
  void goAway();  // ours: no error, we leave; failAll() follows

  // Every stream ends with `why`. `retryUnanswered`: requests without an answer are handed back instead.
  void failAll(const Error& why, bool retryUnanswered);

  // For Http2Stream and its handle.
  size_t capacity(Http2Stream& stream);
  size_t write(Http2Stream& stream, ByteView bytes);
  void finishWriting(Http2Stream& stream);
  void resumeReading(Http2Stream& stream);
  void abandon(Http2Stream& stream);

 private:
  friend struct Http2Callbacks;
  using SessionPtr = Handle<nghttp2_session, nghttp2_session_del>;
  enum class What : uint8_t { Answer, Data, End, Closed };
  struct Event {
    std::shared_ptr<Http2Stream> stream;
    What what;
    ByteView bytes;      // Data: in the caller's buffer
    int next = -1;       // Data: the stream's next piece in this batch
    uint32_t code = 0;   // Closed
  };

  Status pump();
  void stage(ByteView bytes);
  void sendStaged();
  void note(Event event);
  void tell();
  void tellAnswer(const std::shared_ptr<Http2Stream>& stream);
  void tellData(const std::shared_ptr<Http2Stream>& stream, size_t first);
  void tellEnd(const std::shared_ptr<Http2Stream>& stream);
  void tellClosed(const std::shared_ptr<Http2Stream>& stream, uint32_t code);
  void hold(Http2Stream& stream, std::span<const ByteView> parts, size_t skip);
  void consumed(const Http2Stream& stream, size_t bytes);
  void releaseConnection();
  void deliverHeld(const std::shared_ptr<Http2Stream>& stream);
  void adjustWindows();
  void markDirty(Http2Stream& stream);
  void block(Http2Stream& stream);
  void wakeBlocked();
  void forget(Http2Stream& stream);
  Error protocolError() const;

  Http2Host& host_;
  WorkerBuffers& buffers_;
  SessionPtr session_;
  std::unordered_map<int32_t, std::shared_ptr<Http2Stream>> streams_;
  std::vector<Event> events_;
  std::vector<ByteView> partsMemory_;  // between deliveries
  std::vector<std::shared_ptr<Http2Stream>> dirty_;
  std::deque<std::shared_ptr<Http2Stream>> blocked_;
  std::vector<std::shared_ptr<Http2Stream>> resuming_;
  std::vector<std::shared_ptr<Http2Stream>> abandoned_;
  std::string complaint_;   // nghttp2's words for the newest violation
  size_t staged_ = 0;
  size_t held_ = 0;         // of all streams
  size_t owed_ = 0;         // of the connection's window, while held_ is over its limit
  size_t served_ = kMaxStreams;
  size_t resets_ = 0;       // ours
  int32_t newestAnswered_ = 0;
  bool narrow_ = false;     // streams' windows
  bool windowsMoved_ = false;
  bool windowClosed_ = false;  // the gateway's, for the whole connection
  bool telling_ = false;
  bool draining_ = false;
  bool answered_ = false;
  bool violated_ = false;  // the peer broke the protocol, and nghttp2 said goodbye
  bool over_ = false;
};

}  // namespace wayleave::tunnel
