#include "tunnel/http2_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <cstring>

#include "tunnel/connect_answer.h"

namespace wayleave::tunnel {
namespace {

// A write at least this big is framed and encrypted from the caller's buffer; smaller ones are gathered for a turn, so that
// chatty protocols do not become tiny DATA frames, which gateways count as abuse (ztunnel issue 2100).
constexpr size_t kDirectBytes = 4096;
constexpr size_t kSmallQueueBytes = 2048;  // one small block of a ByteQueue
// DATA frames we are ready to take in one piece. Gateways that send 16 KiB frames lose nothing.
constexpr uint32_t kMaxFrameBytes = 256 * 1024;
constexpr size_t kRecordBytes = 16 * 1024;
// Below this a write is tiny: as a frame, its nine bytes of head and a record's 22 would be most of it.
constexpr size_t kTinyBytes = 64;

class Http2StreamHandle final : public Stream {
 public:
  explicit Http2StreamHandle(std::shared_ptr<Http2Stream> stream) : stream_(std::move(stream)) {}
  ~Http2StreamHandle() override {
    if (stream_->session != nullptr) stream_->session->abandon(*stream_);
  }
  size_t writeCapacity() const override {
    return stream_->session != nullptr ? stream_->session->capacity(*stream_) : 0;
  }
  size_t write(ByteView bytes) override {
    return stream_->session != nullptr ? stream_->session->write(*stream_, bytes) : 0;
  }
  void finishWriting() override {
    if (stream_->session != nullptr) stream_->session->finishWriting(*stream_);
  }
  void resumeReading() override {
    if (stream_->session != nullptr) stream_->session->resumeReading(*stream_);
  }

 private:
  std::shared_ptr<Http2Stream> stream_;
};

nghttp2_nv field(std::string_view name, std::string_view value) {
  return {const_cast<uint8_t*>(asBytes(name).data()), const_cast<uint8_t*>(asBytes(value).data()), name.size(),
          value.size(), NGHTTP2_NV_FLAG_NO_COPY_NAME};
}

// A stream that was open, closed by the gateway with an error code (RFC 9113 section 7).
Error resetOf(uint32_t code) {
  const std::string message = fmt::format("the gateway reset the tunnel: {}", nghttp2_http2_strerror(code));
  switch (code) {
    case NGHTTP2_NO_ERROR:  // NOLINT: without an END_STREAM before it
    case NGHTTP2_CANCEL:
    case NGHTTP2_CONNECT_ERROR: return {Reason::TargetReset, message, {}};
    case NGHTTP2_PROTOCOL_ERROR:
    case NGHTTP2_FLOW_CONTROL_ERROR:
    case NGHTTP2_FRAME_SIZE_ERROR:
    case NGHTTP2_STREAM_CLOSED:
    case NGHTTP2_COMPRESSION_ERROR: return {Reason::GatewayProtocolError, message, {}};
    default: return {Reason::GatewayClosed, message, {}};
  }
}

// A request closed without an answer.
Error refusedBy(uint32_t code, const std::string& authority) {
  const std::string message =
      fmt::format("the gateway reset CONNECT {} without an answer: {}", authority, nghttp2_http2_strerror(code));
  switch (code) {
    case NGHTTP2_CONNECT_ERROR: return {Reason::GatewayCannotReachTarget, message, {}};
    case NGHTTP2_PROTOCOL_ERROR: return {Reason::GatewayProtocolError, message, {}};
    case NGHTTP2_REFUSED_STREAM:
    case NGHTTP2_ENHANCE_YOUR_CALM: return {Reason::GatewayRefused, message, "the gateway is overloaded or limits us"};
    case NGHTTP2_HTTP_1_1_REQUIRED:
      return {Reason::GatewayRefused, message, "set the profile's protocol to http/1.1"};
    default: return {Reason::GatewayClosed, message, {}};
  }
}

}  // namespace

// ---- Streams.

Http2Stream::Http2Stream(Http2Session& owner, std::shared_ptr<OpenRequest> asked)
    : session(&owner), request(std::move(asked)), events(request->events()) {}

void Http2Stream::abandonRequest() {
  if (session != nullptr) session->abandon(*this);
}

Error Http2Stream::lateness() const {
  return {Reason::GatewayTimeout, fmt::format("the gateway did not answer CONNECT {} in time", request->authority()), {}};
}

// ---- nghttp2's callbacks: they note, they tell nobody.

struct Http2Callbacks {
  static Http2Session& of(void* user) { return *static_cast<Http2Session*>(user); }
  static Http2Stream* streamOf(nghttp2_session* session, int32_t id) {
    return static_cast<Http2Stream*>(nghttp2_session_get_stream_user_data(session, id));
  }

  static int onHeader(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t nameBytes,
                      const uint8_t* value, size_t valueBytes, uint8_t, void*) {
    Http2Stream* stream = streamOf(session, frame->hd.stream_id);
    if (stream == nullptr) return 0;
    stream->headBytes += static_cast<uint32_t>(nameBytes + valueBytes + 32);  // RFC 9113 section 6.5.2
    if (stream->headBytes > Http2Session::kMaxHeadBytes) {
      stream->oversizeHead = true;
      return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    // nghttp2 has checked that it is three digits, once, before the other fields.
    if (asText({name, nameBytes}) == ":status" && valueBytes == 3)
      stream->status = (value[0] - '0') * 100 + (value[1] - '0') * 10 + (value[2] - '0');
    return 0;
  }

  static int onFrame(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    Http2Session& self = of(user);
    switch (frame->hd.type) {
      case NGHTTP2_HEADERS:
      case NGHTTP2_DATA: {
        Http2Stream* stream = streamOf(session, frame->hd.stream_id);
        if (stream == nullptr) return 0;
        if (frame->hd.type == NGHTTP2_HEADERS) {
          stream->headBytes = 0;
          if (stream->request && stream->status >= 200) self.note({stream->shared_from_this(), Http2Session::What::Answer, {}});
        }
        if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0)
          self.note({stream->shared_from_this(), Http2Session::What::End, {}});
        return 0;
      }
      case NGHTTP2_GOAWAY: self.draining_ = true; return 0;
      case NGHTTP2_WINDOW_UPDATE:
      case NGHTTP2_SETTINGS: self.windowsMoved_ = true; return 0;
      default: return 0;
    }
  }

  static int onData(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* data, size_t length, void* user) {
    Http2Session& self = of(user);
    self.owed_ += length;
    Http2Stream* stream = streamOf(session, id);
    if (stream != nullptr) {
      stream->tinyWritten = false;
      self.note({stream->shared_from_this(), Http2Session::What::Data, {data, length}});
    }
    return 0;
  }

  static int onClose(nghttp2_session*, int32_t id, uint32_t code, void* user) {
    Http2Session& self = of(user);
    const auto found = self.streams_.find(id);
    if (found != self.streams_.end()) self.note({found->second, Http2Session::What::Closed, {}, -1, code});
    return 0;
  }

  static int onSent(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    // nghttp2 judges the peer: the reason is in the last complaint.
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) of(user).violated_ = true;
    if (frame->hd.type == NGHTTP2_HEADERS)
      if (Http2Stream* stream = streamOf(session, frame->hd.stream_id)) stream->left = true;
    return 0;
  }

  // A request that never left, because a GOAWAY overtook it.
  static int onNotSent(nghttp2_session* session, const nghttp2_frame* frame, int, void*) {
    if (frame->hd.type != NGHTTP2_HEADERS) return 0;
    if (Http2Stream* stream = streamOf(session, frame->hd.stream_id)) stream->unsent = true;
    return 0;
  }

  static int onError(nghttp2_session*, int, const char* message, size_t length, void* user) {
    of(user).complaint_.assign(message, std::min<size_t>(length, 200));
    return 0;
  }

  static ssize_t onReadSource(nghttp2_session*, int32_t, uint8_t*, size_t room, uint32_t* flags, nghttp2_data_source* source,
                              void*) {
    auto& stream = *static_cast<Http2Stream*>(source->ptr);
    const size_t waiting = stream.small.size() + stream.direct.size();
    if (waiting == 0 && !stream.finishing) return NGHTTP2_ERR_DEFERRED;
    const size_t now = std::min(room, waiting);
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (stream.finishing && now == waiting) {
      *flags |= NGHTTP2_DATA_FLAG_EOF;
      stream.finished = true;
    }
    return static_cast<ssize_t>(now);
  }

  static int onSendData(nghttp2_session*, nghttp2_frame*, const uint8_t* header, size_t length, nghttp2_data_source* source,
                        void* user) {
    Http2Session& self = of(user);
    auto& stream = *static_cast<Http2Stream*>(source->ptr);
    self.stage({header, 9});
    const size_t small = std::min(length, stream.small.size());
    if (small > 0) {
      self.stage(stream.small.view().first(small));
      stream.small.consume(small);
    }
    self.stage(stream.direct.first(length - small));
    stream.direct = stream.direct.subspan(length - small);
    return 0;
  }

  static nghttp2_session* make(Http2Session& self) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_option* option = nullptr;
    nghttp2_session* session = nullptr;
    if (nghttp2_session_callbacks_new(&callbacks) != 0 || nghttp2_option_new(&option) != 0) return nullptr;
    nghttp2_session_callbacks_set_on_header_callback(callbacks, onHeader);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, onFrame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, onData);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, onClose);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, onSent);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, onNotSent);
    nghttp2_session_callbacks_set_error_callback2(callbacks, onError);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, onSendData);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_peer_max_concurrent_streams(option, Http2Session::kMaxStreams);  // until its SETTINGS come
    nghttp2_session_client_new2(&session, callbacks, &self, option);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    return session;
  }
};

// ---- The session.

Http2Session::Http2Session(Http2Host& host, WorkerBuffers& buffers)
    : host_(host), buffers_(buffers), session_(Http2Callbacks::make(*this)) {}

Http2Session::~Http2Session() {
  for (auto& [id, stream] : streams_) stream->session = nullptr;
}

// Nothing leaves before the first turn: the preface, SETTINGS and the first requests share a TLS record.
Status Http2Session::start() {
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                             {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow},
                                             {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, kMaxFrameBytes},
                                             {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kMaxHeadBytes}};
  if (!session_ || nghttp2_submit_settings(session_.get(), NGHTTP2_FLAG_NONE, settings, std::size(settings)) != 0 ||
      nghttp2_session_set_local_window_size(session_.get(), NGHTTP2_FLAG_NONE, 0, kConnectionWindow) != 0)
    return fail(Reason::Internal, "start an HTTP/2 session");
  return {};
}

Error Http2Session::protocolError() const {
  return {Reason::GatewayProtocolError,
          "the gateway broke the rules of HTTP/2" + (complaint_.empty() ? std::string{} : ": " + complaint_), {}};
}

Status Http2Session::receive(std::span<uint8_t> bytes) {
  const ssize_t taken = nghttp2_session_mem_recv(session_.get(), bytes.data(), bytes.size());
  tell();
  if (over_) return {};
  if (taken < 0) {
    if (complaint_.empty()) complaint_ = nghttp2_strerror(static_cast<int>(taken));
    return std::unexpected(protocolError());
  }
  releaseConnection();
  if (std::exchange(windowsMoved_, false)) {
    if (windowClosed_ && nghttp2_session_get_remote_window_size(session_.get()) > 0) {
      windowClosed_ = false;
      host_.windowClosed(false);
    }
    wakeBlocked();
  }
  if (over_) return {};
  return pump();
}

Status Http2Session::turn() {
  for (const auto& stream : std::exchange(resuming_, {})) {
    stream->resuming = false;
    if (!over_) deliverHeld(stream);
  }
  if (over_) return {};
  if (auto sent = pump(); !sent) return sent;
  if (!over_ && host_.sendRoom() > 0) wakeBlocked();
  return {};
}

Status Http2Session::pump() {
  for (const auto& stream : dirty_) {
    stream->dirty = false;
    if (stream->session != nullptr) nghttp2_session_resume_data(session_.get(), stream->id);
  }
  dirty_.clear();
  for (;;) {
    const uint8_t* data = nullptr;
    const ssize_t length = nghttp2_session_mem_send(session_.get(), &data);
    if (length < 0) {
      complaint_ = nghttp2_strerror(static_cast<int>(length));
      return std::unexpected(protocolError());
    }
    if (length == 0) break;
    stage({data, static_cast<size_t>(length)});
  }
  sendStaged();
  abandoned_.clear();
  if (!telling_) tell();  // sending RST_STREAM or END_STREAM closes streams
  if (violated_ && !over_) return std::unexpected(protocolError());
  return {};
}

// Full records: frames leave in multiples of 16 KiB, and the rest at the end of the pump.
void Http2Session::stage(ByteView bytes) {
  while (!bytes.empty()) {
    const size_t now = std::min(bytes.size(), WorkerBuffers::kFramesBytes - staged_);
    std::memcpy(buffers_.frames.get() + staged_, bytes.data(), now);
    staged_ += now;
    bytes = bytes.subspan(now);
    if (staged_ == WorkerBuffers::kFramesBytes) sendStaged();
  }
}
static_assert(WorkerBuffers::kFramesBytes % kRecordBytes == 0);

void Http2Session::sendStaged() {
  if (staged_ == 0) return;
  host_.sendBytes({buffers_.frames.get(), std::exchange(staged_, 0)});
}

// ---- Requests.

bool Http2Session::accepts() const {
  if (draining_ || over_) return false;
  const uint32_t allowed =
      std::min(kMaxStreams, nghttp2_session_get_remote_settings(session_.get(), NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS));
  return streams_.size() < std::min<size_t>(allowed, served_) && nghttp2_session_check_request_allowed(session_.get()) != 0;
}

int32_t Http2Session::request(std::shared_ptr<OpenRequest> asked) {
  auto stream = std::make_shared<Http2Stream>(*this, asked);
  asked->carryBy(stream.get());
  const nghttp2_nv head[] = {field(":method", "CONNECT"), field(":authority", asked->authority())};
  nghttp2_data_provider source{};
  source.source.ptr = stream.get();
  source.read_callback = Http2Callbacks::onReadSource;
  const int32_t id = nghttp2_submit_request(session_.get(), nullptr, head, std::size(head), &source, stream.get());
  if (id < 0) {
    stream->session = nullptr;
    asked->carryBy(nullptr);
    draining_ = true;  // no stream ids left: another connection has some
    host_.retry(std::move(asked), {Reason::GatewayClosed, "no stream to be had on this connection", {}});
    return id;
  }
  stream->id = id;
  streams_.emplace(id, std::move(stream));
  host_.wantTurn();
  return id;
}

std::shared_ptr<OpenRequest> Http2Session::unanswered(int32_t id) const {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : found->second->request;
}

std::shared_ptr<OpenRequest> Http2Session::withdraw(int32_t id) {
  auto request = unanswered(id);
  if (!request) return nullptr;
  request->carryBy(nullptr);
  abandon(*streams_.find(id)->second);
  return request;
}

size_t Http2Session::answeredStreams() const {
  return static_cast<size_t>(std::ranges::count_if(streams_, [](const auto& each) { return !each.second->request; }));
}

void Http2Session::ping() {
  nghttp2_submit_ping(session_.get(), NGHTTP2_FLAG_NONE, nullptr);
  host_.wantTurn();
}

void Http2Session::goAway() {
  if (over_) return;
  draining_ = true;
  nghttp2_session_terminate_session(session_.get(), NGHTTP2_NO_ERROR);
  // Requests that had not left close here, but why they end is for failAll() to say.
  const bool telling = std::exchange(telling_, true);
  (void)pump();
  events_.clear();
  telling_ = telling;
}

void Http2Session::forget(Http2Stream& stream) {
  held_ -= stream.held.size();
  stream.held = {};
  stream.session = nullptr;
  nghttp2_session_set_stream_user_data(session_.get(), stream.id, nullptr);
  streams_.erase(stream.id);
  adjustWindows();
}

void Http2Session::failAll(const Error& why, bool retryUnanswered) {
  if (std::exchange(over_, true)) return;
  auto streams = std::exchange(streams_, {});
  events_.clear();
  for (auto& [id, stream] : streams) stream->session = nullptr;
  for (auto& [id, stream] : streams) {
    if (auto request = std::exchange(stream->request, nullptr)) {
      request->carryBy(nullptr);
      if (retryUnanswered)
        host_.retry(std::move(request), why);
      else
        request->complete(std::unexpected(why));
    } else {
      stream->events.onClosed(why);
    }
  }
}

// ---- Telling what happened.

void Http2Session::note(Event event) {
  if (event.what == What::Data) {
    const int index = static_cast<int>(events_.size());
    const int last = event.stream->lastPart;
    if (last >= 0) events_[static_cast<size_t>(last)].next = index;
    event.stream->lastPart = index;
  }
  events_.push_back(std::move(event));
}

// A stream's data is told at the place of its first piece: what follows it on the same stream still comes after it.
void Http2Session::tell() {
  telling_ = true;
  for (size_t i = 0; i < events_.size(); ++i) {  // sending, meanwhile, may add to them
    const auto stream = events_[i].stream;
    if (!stream || stream->session == nullptr) continue;
    switch (events_[i].what) {
      case What::Answer: tellAnswer(stream); break;
      case What::Data: tellData(stream, i); break;
      case What::End: tellEnd(stream); break;
      case What::Closed: tellClosed(stream, events_[i].code); break;
    }
    if (over_) break;
  }
  events_.clear();
  telling_ = false;
}

void Http2Session::tellAnswer(const std::shared_ptr<Http2Stream>& stream) {
  auto request = std::exchange(stream->request, nullptr);
  if (!request) return;
  answered_ = true;
  newestAnswered_ = std::max(newestAnswered_, stream->id);
  if (stream->status <= 299) {
    request->complete(std::make_unique<Http2StreamHandle>(stream));
    return;
  }
  const Error why = refusal(stream->status, request->authority(), "");
  request->carryBy(nullptr);
  abandon(*stream);
  request->complete(std::unexpected(why));
}

void Http2Session::tellData(const std::shared_ptr<Http2Stream>& stream, size_t first) {
  std::vector<ByteView> parts = std::exchange(partsMemory_, {});
  size_t total = 0;
  for (int i = static_cast<int>(first); i >= 0;) {
    Event& event = events_[static_cast<size_t>(i)];
    parts.push_back(event.bytes);
    total += event.bytes.size();
    event.stream.reset();  // told
    i = event.next;
  }
  stream->lastPart = -1;
  if (stream->paused) {
    hold(*stream, parts, 0);
  } else {
    const size_t taken = parts.size() == 1 ? stream->events.onData(parts[0]) : stream->events.onDataParts(parts);
    if (stream->session != nullptr) {
      consumed(*stream, taken);
      stream->paused = taken < total;
      hold(*stream, parts, taken);
    }
  }
  parts.clear();
  partsMemory_ = std::move(parts);
}

void Http2Session::hold(Http2Stream& stream, std::span<const ByteView> parts, size_t skip) {
  for (const ByteView part : parts) {
    const size_t over = std::min(skip, part.size());
    skip -= over;
    append(stream.held, part.subspan(over));
    held_ += part.size() - over;
  }
  adjustWindows();
}

// What is under way when a window shrinks still comes: at most the connection's window. Streams that took more than the
// new window have a negative one until their owner reads.
void Http2Session::adjustWindows() {
  if (over_ || (narrow_ ? held_ >= kNarrowAtBytes / 4 : held_ <= kNarrowAtBytes)) return;
  narrow_ = !narrow_;
  const nghttp2_settings_entry window{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
                                      static_cast<uint32_t>(narrow_ ? kNarrowWindow : kStreamWindow)};
  nghttp2_submit_settings(session_.get(), NGHTTP2_FLAG_NONE, &window, 1);
  host_.wantTurn();
}

void Http2Session::tellEnd(const std::shared_ptr<Http2Stream>& stream) {
  if (stream->ended) return;
  if (!stream->held.empty()) {
    stream->endHeld = true;
    return;
  }
  stream->ended = true;
  stream->events.onEndOfStream();
}

void Http2Session::tellClosed(const std::shared_ptr<Http2Stream>& stream, uint32_t code) {
  auto request = std::exchange(stream->request, nullptr);
  // All was said, but the flow has not taken everything yet: the stream lives on as what it holds.
  if (!request && code == NGHTTP2_NO_ERROR && stream->endHeld) {
    nghttp2_session_set_stream_user_data(session_.get(), stream->id, nullptr);
    return;
  }
  forget(*stream);
  if (request) {
    request->carryBy(nullptr);
    if (stream->oversizeHead)
      request->complete(fail(Reason::GatewayProtocolError, "the gateway's answer to CONNECT has an oversize head"));
    else if (code == NGHTTP2_REFUSED_STREAM || stream->unsent)  // RFC 9113 section 8.7: not processed, safe to repeat
      host_.retry(request, refusedBy(code, request->authority()));
    else
      request->complete(std::unexpected(refusedBy(code, request->authority())));
  } else if (code == NGHTTP2_NO_ERROR && stream->ended) {
    // Both directions ended; or the target did and takes no more, which nghttpx says like RFC 9113 section 8.1 for requests:
    // END_STREAM, then RST_STREAM without an error.
    stream->events.onClosed({Reason::Completed, "both directions ended", {}});
  } else {
    stream->events.onClosed(resetOf(code));
  }
  if (!over_) host_.streamsChanged();
}

// ---- Reading: windows and pauses.

void Http2Session::consumed(const Http2Stream& stream, size_t bytes) {
  if (bytes > 0) nghttp2_session_consume_stream(session_.get(), stream.id, bytes);
}

void Http2Session::releaseConnection() {
  if (owed_ == 0 || held_ > kMaxHeldBytes) return;
  nghttp2_session_consume_connection(session_.get(), std::exchange(owed_, 0));
}

void Http2Session::resumeReading(Http2Stream& stream) {
  if (!stream.paused || std::exchange(stream.resuming, true)) return;
  resuming_.push_back(stream.shared_from_this());
  host_.wantTurn();
}

void Http2Session::deliverHeld(const std::shared_ptr<Http2Stream>& stream) {
  if (stream->session == nullptr) return;
  stream->paused = false;
  if (!stream->held.empty()) {
    Bytes lent = std::exchange(stream->held, {});
    const size_t taken = stream->events.onData(lent);
    if (stream->session == nullptr) {
      if (!over_) held_ -= lent.size();  // it was lent when forget() counted
      adjustWindows();
      return;
    }
    held_ -= taken;
    adjustWindows();
    consumed(*stream, taken);
    if (taken < lent.size()) {
      lent.erase(lent.begin(), lent.begin() + static_cast<ptrdiff_t>(taken));
      stream->held = std::move(lent);
      stream->paused = true;
      return;
    }
    releaseConnection();
  }
  if (std::exchange(stream->endHeld, false)) {
    stream->ended = true;
    stream->events.onEndOfStream();
    if (stream->session != nullptr && nghttp2_session_find_stream(session_.get(), stream->id) == nullptr) {
      forget(*stream);
      stream->events.onClosed({Reason::Completed, "both directions ended", {}});
      if (!over_) host_.streamsChanged();
    }
  }
}

// ---- Writing.

// Many gateways give the connection no more than one stream (nghttpx: 65,535 bytes each) and give nothing back before the
// target took it, so one target that stops reading stops its siblings. Leaving them a share does not help: such gateways give
// back when half of a window was taken, and not before. So new tunnels go elsewhere while the window stays closed.
size_t Http2Session::capacity(Http2Stream& stream) {
  if (stream.finishing || over_) return 0;
  const int64_t ofConnection = nghttp2_session_get_remote_window_size(session_.get());
  if (ofConnection <= 0 && !std::exchange(windowClosed_, true)) host_.windowClosed(true);
  const int64_t window = std::min<int64_t>(nghttp2_session_get_stream_remote_window_size(session_.get(), stream.id), ofConnection);
  const int64_t free = std::min<int64_t>(window - static_cast<int64_t>(stream.small.size()),
                                         static_cast<int64_t>(host_.sendRoom()));
  if (free > 0) return static_cast<size_t>(free);
  block(stream);
  return 0;
}

size_t Http2Session::write(Http2Stream& stream, ByteView bytes) {
  size_t taken = std::min(bytes.size(), capacity(stream));
  if (taken == 0) return 0;
  // As Nagle has it, but for a moment only: after one tiny write others are gathered until something comes back.
  const bool tiny = bytes.size() < kTinyBytes;
  const bool mayWait = std::exchange(stream.tinyWritten, tiny) && tiny && stream.small.size() < kSmallQueueBytes / 2;
  if (taken < kDirectBytes && stream.small.size() + taken <= kSmallQueueBytes) {
    stream.small.append(bytes.first(taken));
    markDirty(stream);
  } else {
    stream.direct = bytes.first(taken);
    markDirty(stream);
    (void)pump();  // a failure comes again, and is told, at the turn
    taken -= stream.direct.size();
    stream.direct = {};
  }
  if (stream.session != nullptr && taken < bytes.size()) block(stream);
  if (mayWait)
    host_.wantTurnLater();
  else
    host_.wantTurn();
  return taken;
}

void Http2Session::finishWriting(Http2Stream& stream) {
  if (std::exchange(stream.finishing, true)) return;
  markDirty(stream);
  host_.wantTurn();
}

void Http2Session::abandon(Http2Stream& stream) {
  if (stream.session == nullptr) return;
  stream.request.reset();
  // A request that has not left yet is taken back by it: it would open a tunnel that nobody ever ends.
  const bool queued = !stream.left && !stream.unsent;
  if (queued || nghttp2_session_find_stream(session_.get(), stream.id) != nullptr)
    nghttp2_submit_rst_stream(session_.get(), NGHTTP2_FLAG_NONE, stream.id, NGHTTP2_CANCEL);
  if (!queued && ++resets_ == kMaxResets) draining_ = true;
  abandoned_.push_back(stream.shared_from_this());  // nghttp2 points to it until the reset is sent
  forget(stream);
  host_.wantTurn();
  host_.streamsChanged();
}

void Http2Session::markDirty(Http2Stream& stream) {
  if (!std::exchange(stream.dirty, true)) dirty_.push_back(stream.shared_from_this());
}

void Http2Session::block(Http2Stream& stream) {
  if (host_.sendRoom() == 0) host_.wantDrained();
  if (!std::exchange(stream.blocked, true)) blocked_.push_back(stream.shared_from_this());
}

// In the order in which they were blocked, so that a busy stream does not starve the others. One round: whoever is still
// blocked queues again.
void Http2Session::wakeBlocked() {
  for (size_t left = blocked_.size(); left > 0 && !over_; --left) {
    const auto stream = std::move(blocked_.front());
    blocked_.pop_front();
    stream->blocked = false;
    if (stream->session == nullptr || stream->finishing) continue;
    if (capacity(*stream) > 0) stream->events.onWritable();
  }
}

}  // namespace wayleave::tunnel
