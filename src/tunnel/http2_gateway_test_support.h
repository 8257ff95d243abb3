#pragma once

// An HTTP/2 gateway for the tests: nghttp2's server on a real TLS socket, one thread per connection. It answers CONNECT with
// 200 and echoes, unless the test says otherwise; and it can break every rule.

#include <nghttp2/nghttp2.h>

#include <map>

#include "tunnel/gateway_test_support.h"

namespace wayleave::tunnel::test {

class Http2Peer;

struct Http2Behaviour {
  std::function<void(Http2Peer&, int32_t id, const std::string& authority)> onRequest;  // default: respond(200)
  std::function<void(Http2Peer&, int32_t id, std::string_view bytes)> onData;           // default: echo
  std::function<void(Http2Peer&, int32_t id)> onEnd;                                    // default: end too
  std::function<void(Http2Peer&)> onTick;  // every 10 ms
  uint32_t maxStreams = 100;
  int32_t streamWindow = 1 << 20;
  bool autoWindow = true;  // false: window updates only by consume()
  bool answersPings = true;
};

class Http2Peer {
 public:
  Http2Peer(Peer& peer, const Http2Behaviour& behaviour) : peer_(peer), behaviour_(behaviour) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_option* option = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_option_new(&option);
    nghttp2_session_callbacks_set_on_header_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t nameBytes,
                      const uint8_t* value, size_t valueBytes, uint8_t, void* user) {
          if (asText({name, nameBytes}) == ":authority")
            self(user).streams_[frame->hd.stream_id].authority = asText({value, valueBytes});
          return 0;
        });
    nghttp2_session_callbacks_set_on_frame_recv_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* frame, void* user) {
          self(user).onFrame(*frame);
          return 0;
        });
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        callbacks, [](nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t length, void* user) {
          Http2Peer& me = self(user);
          me.frames.fetch_add(1);
          if (me.behaviour_.onData)
            me.behaviour_.onData(me, id, asText({data, length}));
          else
            me.send(id, asText({data, length}));
          return 0;
        });
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, [](nghttp2_session*, int32_t id, uint32_t, void* user) {
      self(user).streams_.erase(id);
      return 0;
    });
    if (!behaviour.autoWindow) nghttp2_option_set_no_auto_window_update(option, 1);
    if (!behaviour.answersPings) nghttp2_option_set_no_auto_ping_ack(option, 1);
    nghttp2_session_server_new2(&session_, callbacks, this, option);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, behaviour.maxStreams},
                                               {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<uint32_t>(behaviour.streamWindow)}};
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, 2);
    if (behaviour.autoWindow) nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, 16 << 20);
  }
  ~Http2Peer() { nghttp2_session_del(session_); }
  Http2Peer(const Http2Peer&) = delete;

  void respond(int32_t id, const char* status, bool end = false) {
    const nghttp2_nv head = field(":status", status);
    streams_[id].answered = true;
    nghttp2_data_provider source{{.ptr = this}, onRead};
    nghttp2_submit_response(session_, id, &head, 1, end ? nullptr : &source);
  }
  void respondWith(int32_t id, const std::vector<std::pair<std::string, std::string>>& fields) {
    std::vector<nghttp2_nv> head;
    for (const auto& [name, value] : fields) head.push_back(field(name.c_str(), value.c_str()));
    nghttp2_submit_response(session_, id, head.data(), head.size(), nullptr);
  }
  void send(int32_t id, std::string_view bytes) {
    streams_[id].out += bytes;
    nghttp2_session_resume_data(session_, id);
  }
  void end(int32_t id) {
    streams_[id].ending = true;
    nghttp2_session_resume_data(session_, id);
  }
  void reset(int32_t id, uint32_t code) { nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, code); }
  void goAway(int32_t last, uint32_t code = NGHTTP2_NO_ERROR) {
    nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, last, code, nullptr, 0);
  }
  void consume(int32_t id, size_t bytes) { nghttp2_session_consume(session_, id, bytes); }
  void raw(std::string_view bytes) { out_ += bytes; }
  void hangUp() { stop_ = true; }
  size_t queued(int32_t id) { return streams_[id].out.size(); }
  std::vector<int32_t> ids() const {
    std::vector<int32_t> all;
    for (const auto& [id, stream] : streams_) all.push_back(id);
    return all;
  }
  std::atomic<int> frames = 0;   // DATA chunks received
  size_t total = 0;              // for behaviours that count

  void run() {
    ::fcntl(peer_.fd(), F_SETFL, O_NONBLOCK);
    std::array<uint8_t, 65536> room{};
    bool readable = true;
    while (!stop_) {
      bool moved = false;
      const int got = readable ? SSL_read(peer_.ssl(), room.data(), static_cast<int>(room.size())) : -1;
      if (got > 0) {
        moved = true;
        if (nghttp2_session_mem_recv(session_, room.data(), static_cast<size_t>(got)) < 0) return;
      } else if (SSL_get_error(peer_.ssl(), got) != SSL_ERROR_WANT_READ) {
        return;
      }
      while (out_.size() < (1 << 20)) {
        const uint8_t* data = nullptr;
        const ssize_t length = nghttp2_session_mem_send(session_, &data);
        if (length <= 0) break;
        out_ += asText({data, static_cast<size_t>(length)});
      }
      if (!out_.empty()) {
        const int sent = SSL_write(peer_.ssl(), out_.data(), static_cast<int>(out_.size()));
        if (sent > 0) {
          moved = true;
          out_.erase(0, static_cast<size_t>(sent));
        } else if (const int error = SSL_get_error(peer_.ssl(), sent); error != SSL_ERROR_WANT_WRITE && error != SSL_ERROR_WANT_READ) {
          return;
        }
      }
      if (nghttp2_session_want_read(session_) == 0 && nghttp2_session_want_write(session_) == 0 && out_.empty()) return;
      if (!moved) {
        pollfd waiting{peer_.fd(), static_cast<short>(POLLIN | (out_.empty() ? 0 : POLLOUT)), 0};
        ::poll(&waiting, 1, 10);
        if (behaviour_.onTick) behaviour_.onTick(*this);
      }
    }
  }

 private:
  struct StreamState {
    std::string authority;
    std::string out;
    size_t sent = 0;  // of `out`
    bool ending = false;
    bool answered = false;
  };
  static Http2Peer& self(void* user) { return *static_cast<Http2Peer*>(user); }
  static nghttp2_nv field(const char* name, const char* value) {
    return {const_cast<uint8_t*>(asBytes(name).data()), const_cast<uint8_t*>(asBytes(value).data()), std::strlen(name),
            std::strlen(value), NGHTTP2_NV_FLAG_NONE};
  }
  static ssize_t onRead(nghttp2_session*, int32_t id, uint8_t* room, size_t length, uint32_t* flags, nghttp2_data_source*,
                        void* user) {
    StreamState& stream = self(user).streams_[id];
    if (stream.out.empty() && !stream.ending) return NGHTTP2_ERR_DEFERRED;
    const size_t now = std::min(length, stream.out.size() - stream.sent);
    std::memcpy(room, stream.out.data() + stream.sent, now);
    stream.sent += now;
    if (stream.sent == stream.out.size() || stream.sent > (4 << 20)) stream.out.erase(0, std::exchange(stream.sent, 0));
    if (stream.out.empty() && stream.ending) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(now);
  }
  void onFrame(const nghttp2_frame& frame) {
    const int32_t id = frame.hd.stream_id;
    if (frame.hd.type == NGHTTP2_HEADERS) {
      if (behaviour_.onRequest)
        behaviour_.onRequest(*this, id, streams_[id].authority);
      else
        respond(id, "200");
    }
    if ((frame.hd.type == NGHTTP2_DATA || frame.hd.type == NGHTTP2_HEADERS) && (frame.hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
      if (behaviour_.onEnd)
        behaviour_.onEnd(*this, id);
      else
        end(id);
    }
  }

  Peer& peer_;
  const Http2Behaviour& behaviour_;
  nghttp2_session* session_ = nullptr;
  std::map<int32_t, StreamState> streams_;
  std::string out_;
  bool stop_ = false;
};

inline std::shared_ptr<SSL_CTX> withAlpn(std::shared_ptr<SSL_CTX> context, const char* wire) {
  SSL_CTX_set_alpn_select_cb(
      context.get(),
      [](SSL*, const unsigned char** out, unsigned char* length, const unsigned char* in, unsigned int inLength, void* arg) {
        const auto* mine = static_cast<const char*>(arg);
        return SSL_select_next_proto(const_cast<unsigned char**>(out), length, reinterpret_cast<const unsigned char*>(mine),
                                     static_cast<unsigned>(std::strlen(mine)), in, inLength) == OPENSSL_NPN_NEGOTIATED
                   ? SSL_TLSEXT_ERR_OK
                   : SSL_TLSEXT_ERR_NOACK;
      },
      const_cast<char*>(wire));
  return context;
}

inline Gateway::Behaviour http2(const Http2Behaviour& behaviour) {
  return [behaviour](Peer& peer) {
    Http2Peer session(peer, behaviour);
    session.run();
  };
}

}  // namespace wayleave::tunnel::test
