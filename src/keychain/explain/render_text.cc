#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/osstatus.h"
#include "keychain/dispatch/not_available.h"
#include "keychain/explain/page.h"
#include "keychain/explain/render.h"

namespace wayleave::keychain::explain {
namespace {

using namespace dispatch;

// Enough hues that neighbours differ; headers are dim.
constexpr std::array<std::string_view, 6> kHues = {"32", "33", "34", "35", "36", "91"};
constexpr size_t kBytesPerLine = 16;

std::string markLetter(Certainty certainty) { return std::string(mark(certainty).substr(0, 1)); }

std::string cellText(const Cell& cell) {
  const auto one = [](const Prediction& p) { return fmt::format("{} {}", p.status, markLetter(p.certainty)); };
  return cell.differs() ? one(cell.inUser) + " / " + one(cell.inSystem) : one(cell.inUser);
}

// Statuses come first; certainty as a letter (legend()).
void legend(Page& page, bool twoHomes) {
  page.bullet("",
              "c code: read in Apple's published source · d doc: stated in public · i inferred · u unknown. Nothing "
              "here was run on a Mac.");
  if (twoHomes)
    page.bullet("", "a / b: if the row is in the user's keychain / in the system data protection keychain.");
}

void prediction(Page& page, const Prediction& p) {
  page.line(fmt::format("  {}  decided by rule {} [{}]",
                        page.paint(p.status == 0 ? "1;32" : "1;31", statusText(p.status)), p.decidedBy,
                        mark(p.certainty)));
  if (p.asked.empty()) page.line("  asked: nothing");
  for (const Asked& asked : p.asked)
    page.line(fmt::format("  asked: {}: {}{}", text(asked.side), statusText(asked.status),
                          asked.hidden ? " (the caller does not see it)" : ""));
  for (const Step& step : p.steps)
    page.bullet(fmt::format("{}{:<5} ", std::string(static_cast<size_t>(step.depth) * 2, ' '), step.rule),
                fmt::format("{} [{}]", step.text, mark(step.certainty)), 4);
}

bool mixesIdentityWithCertReference(const Query& query) {
  const Bytes* reference = query.reference();
  return reference != nullptr && reference->size() == 20 && asText(ByteView(*reference).first(4)) == "cert" &&
         query.text("kSecClass") == "idnt";
}

void causes(Page& page, const Query& query) {
  page.heading("Which cause of -25291");
  Observations observed;
  if (mixesIdentityWithCertReference(query)) observed.queryMixedIdentityWithCertReference = true;
  const std::vector<Verdict> verdicts = weigh(observed);
  for (size_t i = 0; i < verdicts.size(); ++i) {
    const CauseInfo& info = causesOfNotAvailable()[i];
    page.bullet(fmt::format("{}. ", info.letter),
                verdicts[i].possible ? std::string(info.what) : fmt::format("excluded: {}", verdicts[i].why));
    if (verdicts[i].possible) page.bullet("separated by: ", info.separatedBy, 5);
  }
}

void section(Page& page, const Section& one) {
  page.line("\n" + page.paint("1", one.title));
  page.values(one.values);
}

}  // namespace

std::string statusText(OSStatus status) {
  const auto name = osStatusName(status);
  return name ? fmt::format("{} {}", status, *name) : fmt::format("{}", status);
}

std::string annotatedDump(ByteView bytes, const std::vector<Field>& fields, const Style& style) {
  Page page(style);
  size_t hue = 0;
  for (const Field& field : fields) {
    const bool structure = field.name.ends_with(" header") || field.name.ends_with(" length");
    const std::string_view colour = structure ? "2" : kHues[hue++ % kHues.size()];
    for (size_t at = 0; at < field.length; at += kBytesPerLine) {
      const size_t count = std::min(kBytesPerLine, field.length - at);
      std::string hex;
      for (size_t i = 0; i < count; ++i) {
        if (i == kBytesPerLine / 2) hex += ' ';
        hex += fmt::format("{:02x} ", bytes[field.offset + at + i]);
      }
      hex.resize(3 * kBytesPerLine + 1, ' ');
      std::string note;
      if (at == 0) note = field.value.empty() ? field.name : field.name + ": " + printable(field.value);
      page.line(fmt::format("  {:04x}  {} {}", field.offset + at, page.paint(colour, hex), page.paint(colour, note)));
    }
  }
  return page.take();
}

std::string toText(const ReferenceExplanation& e, const Style& style) {
  Page page(style);
  page.title(fmt::format("{} · {} bytes", e.form, e.bytes.size()));
  page.heading("Fields");
  std::vector<std::pair<std::string, std::string>> values = e.values;
  for (auto& [name, value] : values) value = printable(value);
  page.values(values);
  page.heading("Bytes");
  page.raw(annotatedDump(e.bytes, e.decoded.fields, style));
  if (!e.decoded.warnings.empty()) {
    page.heading("Tolerated (a strict reader refuses this)");
    for (const Warning& warning : e.decoded.warnings)
      page.bullet("! ", fmt::format("offset {}: {}", warning.offset, warning.text));
  }
  page.heading("Where the item lives");
  page.statements(e.where);
  page.heading("Worth knowing");
  page.statements(e.notes);

  page.heading("What each call returns");
  for (size_t i = 0; i < e.calls.size(); ++i)
    page.line(fmt::format("  {}  {}", static_cast<char>('A' + i), e.calls[i].name));
  page.line("");
  std::vector<std::vector<std::string>> rows(1, {"context"});
  for (size_t i = 0; i < e.calls.size(); ++i) rows[0].push_back(std::string(1, static_cast<char>('A' + i)));
  bool twoHomes = false;
  for (const MatrixRow& row : e.matrix) {
    std::vector<std::string> cells = {row.caller->id};
    for (const Cell& cell : row.cells) {
      cells.push_back(cellText(cell));
      twoHomes = twoHomes || cell.differs();
    }
    rows.push_back(std::move(cells));
  }
  page.table(rows);
  page.line("");
  legend(page, twoHomes);
  for (const MatrixRow& row : e.matrix) page.bullet(row.caller->id + ": ", row.caller->title + "; " + row.caller->note);

  if (!e.advice.empty()) {
    page.heading("If a daemon must use it: ways out, best evidence first");
    for (size_t i = 0; i < e.advice.size(); ++i) {
      page.bullet(fmt::format("{}. ", i + 1), fmt::format("{} [{}]", e.advice[i].what, mark(e.advice[i].certainty)));
      page.bullet("cost: ", e.advice[i].cost, 5);
      page.line("     " + page.paint("2", e.advice[i].source));
    }
  }
  return page.take();
}

std::string toText(const QueryExplanation& e, const Style& style) {
  Page page(style);
  page.title(fmt::format("{}, predicted", text(e.api)));
  if (e.rows.size() == 1) {
    const MatrixRow& row = e.rows.front();
    const Cell& cell = row.cells.front();
    page.bullet("", fmt::format("{}: {}; {}", row.caller->id, row.caller->title, row.caller->note), 0);
    page.heading(cell.differs() ? "If the row is in the user's keychain" : "Prediction");
    prediction(page, cell.inUser);
    if (cell.differs()) {
      page.heading("If the row is in the system data protection keychain");
      prediction(page, cell.inSystem);
    }
    if (cell.inUser.status == errSecNotAvailable || cell.inSystem.status == errSecNotAvailable) causes(page, e.query);
    return page.take();
  }
  std::vector<std::vector<std::string>> rows = {{"context", "status", "rule", "asked"}};
  bool twoHomes = false;
  for (const MatrixRow& row : e.rows) {
    const Cell& cell = row.cells.front();
    std::string asked;
    for (const Asked& one : cell.inUser.asked) {
      const std::string_view side = one.side == Side::FileKeychains  ? "files"
                                    : one.side == Side::UserKeychain ? "user"
                                                                     : "system";
      asked += fmt::format("{}{} {}{}", asked.empty() ? "" : ", ", side, one.status, one.hidden ? " (hidden)" : "");
    }
    rows.push_back({row.caller->id, cellText(cell),
                    cell.inUser.decidedBy + (cell.differs() ? " / " + cell.inSystem.decidedBy : ""),
                    asked.empty() ? "nothing" : asked});
    twoHomes = twoHomes || cell.differs();
  }
  page.line("");
  page.table(rows);
  page.line("");
  legend(page, twoHomes);
  page.line("  --context ID shows every step.");
  return page.take();
}

std::string toText(const StatusExplanation& e, const Style& style) {
  Page page(style);
  page.title(fmt::format("{}: {}", statusText(e.status), e.meaning));
  if (e.names.size() > 1) {
    std::string names;
    for (const std::string_view name : e.names) names += (names.empty() ? "" : ", ") + std::string(name);
    page.heading("One number, these names");
    page.bullet("", names);
  }
  if (!e.producers.empty()) page.heading("Who returns it");
  page.statements(e.producers);
  if (!e.apart.empty()) page.heading("What tells the causes apart");
  page.statements(e.apart);
  return page.take();
}

std::string toText(const KeychainExplanation& e, const Style& style) {
  Page page(style);
  page.title(e.summary.title);
  page.values(e.summary.values);
  for (const Section& item : e.items) section(page, item);
  if (e.unlisted > 0) page.line(fmt::format("\n… and {} certificates more", e.unlisted));
  if (e.resolved) {
    page.heading("The reference names");
    section(page, *e.resolved);
  }
  if (e.unresolved) page.line("\n" + page.paint("1;31", "The reference names nothing here: ") + e.unresolved->message);
  return page.take();
}

std::string toText(const Delivery& delivery, const Fate& fate, const Style& style) {
  Page page(style);
  page.line(fmt::format("  delivered by {} on the {} channel{}", text(delivery.source),
                        delivery.channel == DeliveryChannel::Device ? "device" : "user",
                        delivery.hardwareBound ? ", hardware-bound" : ""));
  page.statements({fate.keychain, fate.reference});
  std::vector<std::vector<std::string>> rows = {{"context", "can use it", ""}};
  for (const ProcessUse& use : fate.processes)
    rows.push_back({use.context, std::string(text(use.usable)), fmt::format("{} [{}]", use.why, mark(use.certainty))});
  page.table(rows, 4);
  page.statements(fate.remarks);
  return page.take();
}

}  // namespace wayleave::keychain::explain
