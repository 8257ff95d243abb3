#include "enrolment/http.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "base/owned.h"
#include "tls/callback_key.h"
#include "tls/foreign_context.h"

namespace wayleave::enrolment {
namespace {

using CurlPtr = Handle<CURL, curl_easy_cleanup>;
using SlistPtr = Handle<curl_slist, curl_slist_free_all>;

// An answer has a few dozen headers of a few hundred bytes; more is an attack or a mistake.
constexpr size_t kMaxHeaderBytes = 64 * 1024;

struct Receiver {
  HttpResponse response;
  size_t maxBody = 0;
  size_t headerBytes = 0;
  bool tooLarge = false;
};

size_t onBody(char* data, size_t size, size_t count, void* user) noexcept {
  auto* receiver = static_cast<Receiver*>(user);
  const size_t bytes = size * count;
  if (receiver->response.body.size() + bytes > receiver->maxBody) {
    receiver->tooLarge = true;
    return 0;
  }
  append(receiver->response.body, asBytes({data, bytes}));
  return bytes;
}

size_t onHeader(char* data, size_t size, size_t count, void* user) noexcept {
  auto* receiver = static_cast<Receiver*>(user);
  const std::string_view line(data, size * count);
  receiver->headerBytes += line.size();
  if (receiver->headerBytes > kMaxHeaderBytes) {
    receiver->tooLarge = true;
    return 0;
  }
  if (line.starts_with("HTTP/")) receiver->response.headers.clear();  // the head of an interim answer was before it
  if (const size_t colon = line.find(':'); colon != std::string_view::npos) {
    std::string name(line.substr(0, colon));
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return c < 0x80 ? std::tolower(c) : c; });
    std::string_view value = line.substr(colon + 1);
    while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
    while (!value.empty() && (value.back() == '\r' || value.back() == '\n' || value.back() == ' ')) value.remove_suffix(1);
    receiver->response.headers.emplace(std::move(name), value);
  }
  return line.size();
}

Error curlError(CURLcode code, const char* detail, const std::string& url) {
  const std::string text = fmt::format("{}: {}", url, *detail != '\0' ? detail : curl_easy_strerror(code));
  switch (static_cast<int>(code)) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
      return Error{Reason::Untrusted, text,
                   "deliver the server's root certificate in a com.apple.security.root payload of the same profile", 0};
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL: return Error{Reason::BadInput, text, "the URL must be https", 0};
    default: return Error{Reason::Unavailable, text, "check the network and the server, it will be tried again", 0};
  }
}

// What the callback below needs, and what it could not do.
struct ClientCertificate {
  const tls::ClientIdentity* identity = nullptr;
  std::optional<Error> error;
};

CURLcode onContext(CURL*, void* context, void* user) noexcept {
  auto* certificate = static_cast<ClientCertificate*>(user);
  const Status used = tls::useForeignIdentity(static_cast<SSL_CTX*>(context), *certificate->identity);
  if (used) return CURLE_OK;
  certificate->error = used.error();
  return CURLE_SSL_CERTPROBLEM;
}

int onProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) noexcept {
  return static_cast<const std::stop_token*>(user)->stop_requested() ? 1 : 0;
}

class CurlHttp final : public Http {
 public:
  explicit CurlHttp(HttpOptions options) : options_(std::move(options)) {
    static std::once_flag once;
    std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
    for (const std::string& pem : options_.trustAnchorsPem) anchors_ += pem + "\n";
    handle_.reset(curl_easy_init());
  }
  ~CurlHttp() override {
    std::optional<tls::ForeignScope> scope;
    if (options_.identity) scope.emplace(std::chrono::steady_clock::now() + options_.timeout);
    handle_.reset();  // closes connections, which belong to the scope's library context
  }

  Result<HttpResponse> send(const HttpRequest& request) override {
    if (!handle_) return fail(Reason::Internal, "libcurl could not start");
    const std::lock_guard lock(mutex_);
    CURL* curl = handle_.get();
    curl_easy_reset(curl);  // keeps the open connections
    Receiver receiver;
    receiver.maxBody = options_.maxBodyBytes;
    char detail[CURL_ERROR_SIZE] = "";
    curl_slist* list = nullptr;
    for (const std::string& header : request.headers) list = curl_slist_append(list, header.c_str());
    if (!request.contentType.empty()) list = curl_slist_append(list, ("Content-Type: " + request.contentType).c_str());
    list = curl_slist_append(list, "Expect:");  // several CA servers never answer 100 Continue
    const SlistPtr headers(list);

    curl_easy_setopt(curl, CURLOPT_URL, request.url.c_str());
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, options_.allowPlainHttp ? "https,http" : "https");
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "wayleave/" WAYLEAVE_VERSION);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, static_cast<long>(options_.timeout.count()));
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, onBody);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &receiver);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, onHeader);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, &receiver);
    if (!anchors_.empty()) {
      curl_blob blob{anchors_.data(), anchors_.size(), CURL_BLOB_NOCOPY};
      curl_easy_setopt(curl, CURLOPT_CAINFO_BLOB, &blob);
    }
    if (request.method == "HEAD") {
      curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    } else if (request.method != "GET") {
      curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request.method.c_str());
      curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
      curl_easy_setopt(curl, CURLOPT_POSTFIELDS, reinterpret_cast<const char*>(request.body.data()));
    }
    if (options_.stop.stop_possible()) {
      curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
      curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, onProgress);
      curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &options_.stop);
    }
    if (options_.onlyTheseAnchors) curl_easy_setopt(curl, CURLOPT_CAPATH, nullptr);
    ClientCertificate certificate{options_.identity ? &*options_.identity : nullptr, std::nullopt};
    if (options_.identity) {
      curl_easy_setopt(curl, CURLOPT_SSL_CTX_FUNCTION, onContext);
      curl_easy_setopt(curl, CURLOPT_SSL_CTX_DATA, &certificate);
    }
    CURLcode code = CURLE_OK;
    {
      // Only where there is an identity: without one libcurl keeps to OpenSSL's own default context.
      std::optional<tls::ForeignScope> scope;
      if (options_.identity) scope.emplace(std::chrono::steady_clock::now() + options_.timeout);
      code = curl_easy_perform(curl);
      if (code != CURLE_OK && options_.identity && !certificate.error) certificate.error = tls::takeSignError();
    }
    if (code == CURLE_ABORTED_BY_CALLBACK) return fail(Reason::Cancelled, request.url + ": the daemon is stopping");
    if (certificate.error) return withContext(*certificate.error, request.url);
    if (receiver.tooLarge)
      return fail(Reason::BadInput, fmt::format("{}: the answer is larger than {} bytes", request.url, options_.maxBodyBytes));
    if (code != CURLE_OK) return std::unexpected(curlError(code, detail, request.url));
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    receiver.response.status = static_cast<int>(status);
    return std::move(receiver.response);
  }

 private:
  HttpOptions options_;
  std::string anchors_;
  std::mutex mutex_;
  CurlPtr handle_;
};

}  // namespace

std::string HttpResponse::header(const std::string& lowerCaseName) const {
  const auto found = headers.find(lowerCaseName);
  return found == headers.end() ? std::string() : found->second;
}

std::unique_ptr<Http> makeHttp(HttpOptions options) { return std::make_unique<CurlHttp>(std::move(options)); }

}  // namespace wayleave::enrolment
