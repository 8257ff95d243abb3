#include "proxy/control/api.h"

#include <fmt/format.h>

#include <charconv>

#include "localapi/peer.h"

namespace wayleave::proxy::control {
namespace {

constexpr size_t kDefaultFlows = 100;
constexpr size_t kMostFlows = 10'000;
// Of a peer that the kernel says nothing about: no user.
constexpr uint32_t kNobody = UINT32_MAX;

Error badRequest(std::string message) { return {Reason::BadInput, std::move(message), {}}; }

}  // namespace

Api::Api(const Proxy& proxy, observe::FlowJournal& journal, const Controller& controller, std::optional<gid_t> administrators)
    : proxy_(proxy), journal_(journal), controller_(controller), administrators_(administrators) {}

void Api::handle(const localapi::Request& request, localapi::Responder& responder) {
  if (request.method != "GET") return responder.respond(localapi::errorResponse(badRequest("this API is for reading: use GET")));
  if (request.path == "/v1/status") return responder.respond(status());
  if (request.path == "/v1/flows") return responder.respond(flows(request));
  if (request.path == "/metrics") return responder.respond(metrics());
  if (request.path == "/v1/watch") {
    auto stream = responder.openStream();
    journal_.watch({.onRecord = [stream, user = limitedTo(request)](const observe::FlowRecord& record) {
                      return user && record.user != user ? stream->isOpen() : stream->send(toJson(record));
                    },
                    .isAlive = [stream] { return stream->isOpen(); }});
    return;
  }
  responder.respond(localapi::errorResponse({Reason::NotFound, "no such resource: " + request.path,
                                   "there are /v1/status, /v1/flows, /v1/watch and /metrics"}));
}

localapi::Response Api::status() const {
  uint64_t active = 0, opened = 0;
  for (const observe::WorkerMetrics* worker : proxy_.metrics()) {
    active += worker->flowsActive.get();
    opened += worker->flowsOpened.get();
  }
  const auto up = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - started_).count();
  return {.body = controller_.statusJson(fmt::format(
              R"("version":"{}","uptimeSeconds":{},"workers":{},"flows":{{"active":{},"total":{}}})", WAYLEAVE_VERSION, up,
              proxy_.metrics().size(), active, opened))};
}

localapi::Response Api::flows(const localapi::Request& request) const {
  size_t limit = kDefaultFlows;
  if (const auto given = request.query.find("limit"); given != request.query.end()) {
    const std::string& text = given->second;
    const auto [stop, code] = std::from_chars(text.data(), text.data() + text.size(), limit);
    if (code != std::errc{} || stop != text.data() + text.size() || limit == 0 || limit > kMostFlows)
      return localapi::errorResponse(badRequest(fmt::format("limit is not 1..{}", kMostFlows)));
  }
  const std::optional<uint32_t> user = limitedTo(request);
  std::string body = fmt::format(R"({{"of":"{}","flows":[)", user ? "caller" : "everybody");
  for (const observe::FlowRecord& record : journal_.latest(limit, user)) {
    if (body.back() == '}') body += ',';
    body += toJson(record);
  }
  return {.body = body + "]}"};
}

std::optional<uint32_t> Api::limitedTo(const localapi::Request& request) const {
  if (!request.peer) return kNobody;
  if (localapi::isAdministrator(*request.peer, administrators_)) return {};
  return request.peer->uid;
}

localapi::Response Api::metrics() const {
  const auto workers = proxy_.metrics();
  return {.contentType = "text/plain; version=0.0.4",
          .body = exposition(workers, {{"wayleave_capture_installed", "1 while capture rules are loaded",
                                        controller_.captureInstalled() ? 1.0 : 0.0},
                                       {"wayleave_configurations", "Configurations in force",
                                        static_cast<double>(controller_.configurations())},
                                       {"wayleave_flow_records_dropped_total", "Flow records lost because the log was too slow",
                                        static_cast<double>(journal_.dropped()), true}})};
}

}  // namespace wayleave::proxy::control
