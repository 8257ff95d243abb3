#pragma once

// The way to the TPM: our own TCTI for a character device and for a unix socket.
//
// Why not the stock TCTIs: libtss2-tcti-swtpm ignores timeouts (a TPM that hangs would hang its owner thread for ever)
// and opens a second, internet or unix, control connection; both stock ones hide errno, so "no such device",
// "permission denied" and "another program holds it" would be one error; and all are loaded with dlopen, which a
// sandboxed identityd must not need. The wire is the same for device and socket: one TPM command out, one TPM response
// back, each with its size in bytes 2 to 5 (TPM 2.0 Library, part 1, section 18).
//
//   device:/dev/tpmrm0        the kernel's resource manager (default)
//   device:/dev/tpm0          exclusive; we flush after ourselves
//   swtpm:path=/run/x.sock    swtpm socket --server type=unixio,path=/run/x.sock --flags startup-clear,not-need-init
//   anything else             handed to Tss2_TctiLdr (tabrmd, mssim, …), for development: no command timeout there
//
// A transport belongs to the owner thread; only `wake` may be used by others.

#include <tss2/tss2_tcti.h>

#include <chrono>
#include <memory>
#include <string>

#include "base/owned.h"
#include "base/result.h"

namespace wayleave::keys::tpm {

// Counted by the transport, read by the owner after each command.
struct CommandObserver {
  virtual ~CommandObserver() = default;
  virtual void commandDone(std::chrono::nanoseconds took) = 0;
};

struct TransportOptions {
  std::string tcti = "device:/dev/tpmrm0";
  // Longest answer awaited. The kernel itself gives a TPM up to 5 minutes for key generation on slow parts; two minutes
  // cover an RSA-2048 key on every part we know of.
  std::chrono::milliseconds commandTimeout{120'000};
  int wakeFd = -1;  // readable (an eventfd): abort the command under way
  CommandObserver* observer = nullptr;
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual TSS2_TCTI_CONTEXT* context() = 0;
  // Nobody stands between us and the TPM: leftovers of a crashed run are ours to flush, TPM2_Startup ours to send.
  virtual bool direct() const = 0;
  // The last failure was a command that outlived commandTimeout: running it again would wait as long again.
  virtual bool timedOut() const = 0;
};

// Errors: Unavailable (no such device or socket, nobody listens), KeyPermission (EACCES, EPERM), Busy (EBUSY),
// Unsupported (a TCTI string nobody knows).
Result<std::unique_ptr<Transport>> openTransport(const TransportOptions& options);

// How an errno from opening `path` reads. Pure.
Error openFailure(int number, const std::string& path);

}  // namespace wayleave::keys::tpm
