#include "base/osstatus.h"
#include "keychain/dispatch/not_available.h"
#include "keychain/explain/render.h"

namespace wayleave::keychain::explain {
namespace {

using namespace dispatch;
using Json = nlohmann::ordered_json;

Json json(const Statement& s) {
  Json out = {{"text", s.text}, {"certainty", mark(s.certainty)}};
  if (!s.source.empty()) out["source"] = s.source;
  return out;
}
Json json(const std::vector<Statement>& statements) {
  Json out = Json::array();
  for (const Statement& s : statements) out.push_back(json(s));
  return out;
}
Json statusJson(OSStatus status) { return {{"value", status}, {"name", osStatusName(status).value_or("")}}; }

std::string_view sideName(Side side) {
  switch (side) {
    case Side::UserKeychain: return "user";
    case Side::SystemKeychain: return "system";
    case Side::FileKeychains: return "files";
  }
  return "?";
}

Json json(const Prediction& p, bool steps) {
  Json out = {{"status", statusJson(p.status)},
              {"decidedBy", p.decidedBy},
              {"certainty", mark(p.certainty)},
              {"asked", Json::array()}};
  for (const Asked& asked : p.asked)
    out["asked"].push_back(
        {{"side", sideName(asked.side)}, {"status", statusJson(asked.status)}, {"hidden", asked.hidden}});
  if (!steps) return out;
  out["steps"] = Json::array();
  for (const Step& step : p.steps)
    out["steps"].push_back(
        {{"rule", step.rule}, {"text", step.text}, {"certainty", mark(step.certainty)}, {"depth", step.depth}});
  return out;
}

Json json(const Cell& cell, bool steps) {
  Json out = {{"inUserKeychain", json(cell.inUser, steps)}};
  if (cell.differs()) out["inSystemKeychain"] = json(cell.inSystem, steps);
  return out;
}

Json json(const Section& section) {
  Json out = {{"title", section.title}, {"values", Json::array()}};
  for (const auto& [name, value] : section.values)
    out["values"].push_back({{"name", name}, {"value", printable(value)}});
  return out;
}

}  // namespace

Json toJson(const ReferenceExplanation& e) {
  Json out = {{"kind", "reference"},        {"form", e.form},          {"length", e.bytes.size()},
              {"bytes", toBase64(e.bytes)}, {"values", Json::array()}, {"fields", Json::array()},
              {"warnings", Json::array()}};
  for (const auto& [name, value] : e.values) out["values"].push_back({{"name", name}, {"value", printable(value)}});
  for (const Field& field : e.decoded.fields)
    out["fields"].push_back(
        {{"offset", field.offset}, {"length", field.length}, {"name", field.name}, {"value", printable(field.value)}});
  for (const Warning& warning : e.decoded.warnings)
    out["warnings"].push_back({{"offset", warning.offset}, {"text", warning.text}});
  out["where"] = json(e.where);
  out["notes"] = json(e.notes);
  out["matrix"] = Json::array();
  for (const MatrixRow& row : e.matrix) {
    Json cells = Json::array();
    for (size_t i = 0; i < row.cells.size(); ++i) {
      Json cell = json(row.cells[i], false);
      cell["call"] = e.calls[i].name;
      cells.push_back(std::move(cell));
    }
    out["matrix"].push_back({{"context", row.caller->id},
                             {"title", row.caller->title},
                             {"assumption", row.caller->note},
                             {"calls", std::move(cells)}});
  }
  out["advice"] = Json::array();
  for (const Advice& advice : e.advice)
    out["advice"].push_back({{"what", advice.what},
                             {"cost", advice.cost},
                             {"certainty", mark(advice.certainty)},
                             {"source", advice.source}});
  return out;
}

Json toJson(const QueryExplanation& e) {
  Json out = {{"kind", "query"}, {"api", text(e.api)}, {"predictions", Json::array()}};
  for (const MatrixRow& row : e.rows) {
    Json one = json(row.cells.front(), true);
    one["context"] = row.caller->id;
    one["title"] = row.caller->title;
    one["assumption"] = row.caller->note;
    out["predictions"].push_back(std::move(one));
  }
  return out;
}

Json toJson(const StatusExplanation& e) {
  Json out = {{"kind", "status"},
              {"value", e.status},
              {"names", e.names},
              {"meaning", e.meaning},
              {"returnedBy", json(e.producers)},
              {"separatedBy", json(e.apart)}};
  if (e.status != errSecNotAvailable) return out;
  out["causes"] = Json::array();
  for (const CauseInfo& cause : causesOfNotAvailable())
    out["causes"].push_back({{"id", std::string(1, cause.letter)},
                             {"what", cause.what},
                             {"source", cause.source},
                             {"separatedBy", cause.separatedBy}});
  return out;
}

Json toJson(const KeychainExplanation& e) {
  Json out = {{"kind", "keychain"}, {"summary", json(e.summary)}, {"items", Json::array()}};
  for (const Section& item : e.items) out["items"].push_back(json(item));
  if (e.unlisted > 0) out["unlisted"] = e.unlisted;
  if (e.resolved) out["resolved"] = json(*e.resolved);
  if (e.unresolved)
    out["unresolved"] = {
        {"code", apiCode(*e.unresolved)}, {"reason", text(e.unresolved->reason)}, {"message", e.unresolved->message}};
  return out;
}

Json toJson(const Delivery& delivery, const Fate& fate) {
  Json out = {{"source", text(delivery.source)},
              {"channel", delivery.channel == DeliveryChannel::Device ? "device" : "user"},
              {"hardwareBound", delivery.hardwareBoundKnown ? Json(delivery.hardwareBound) : Json(nullptr)},
              {"keychain", json(fate.keychain)},
              {"reference", json(fate.reference)},
              {"processes", Json::array()},
              {"remarks", json(fate.remarks)}};
  for (const ProcessUse& use : fate.processes)
    out["processes"].push_back({{"context", use.context},
                                {"title", use.title},
                                {"usable", text(use.usable)},
                                {"why", use.why},
                                {"certainty", mark(use.certainty)}});
  return out;
}

}  // namespace wayleave::keychain::explain
