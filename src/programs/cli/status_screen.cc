#include "status_screen.h"

#include <map>

#include <fmt/format.h>

#include "context.h"
#include "relative_time.h"
#include "table.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

constexpr size_t kLabel = 14;  // the column in which everything but the labels stands

const json& member(const json& object, const char* name) {
  static const json kNothing = json::object();
  const auto found = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && found != object.end() ? *found : kNothing;
}

class Screen {
 public:
  explicit Screen(const ScreenStyle& style) : style_(style) {}

  std::string paint(const char* code, std::string_view text) const {
    return style_.colour ? fmt::format("\033[{}m{}\033[0m", code, text) : std::string(text);
  }
  // The label on the section's first line only.
  void section(std::string_view label) {
    label_ = label;
    code_ = "1";
  }
  // One line of a section, wrapped; `code` colours all of it.
  void line(std::string_view text, const char* code = nullptr, size_t indent = 0) {
    const size_t left = kLabel + indent;
    bool first = true;
    for (const std::string& part : wrapped(text, style_.width > left + 20 ? style_.width - left : 20)) {
      out_ += label_.empty() ? std::string(kLabel, ' ') : paint(code_, label_) + std::string(kLabel - std::min(kLabel, textWidth(label_)), ' ');
      out_ += std::string(indent + (first ? 0 : 2), ' ') + (code == nullptr ? part : paint(code, part)) + "\n";
      label_.clear();
      first = false;
    }
  }
  void blank() { out_ += "\n"; }
  std::string take() { return std::move(out_); }

 private:
  static std::vector<std::string> wrapped(std::string_view text, size_t width) {
    std::vector<std::string> out;
    std::string row;
    while (!text.empty()) {
      const size_t space = text.find(' ');
      std::string_view word = text.substr(0, space);
      const size_t room = width - (out.empty() ? 0 : 2);
      if (!row.empty() && textWidth(row) + 1 + textWidth(word) > room) out.push_back(std::exchange(row, {}));
      row += (row.empty() ? "" : " ") + std::string(word);
      text.remove_prefix(space == std::string_view::npos ? text.size() : space + 1);
    }
    if (!row.empty() || out.empty()) out.push_back(row);
    return out;
  }

  const ScreenStyle style_;
  std::string out_, label_;
  const char* code_ = "1";
};

void head(Screen& screen, const json& all, const std::vector<Problem>& problems) {
  size_t answering = 0;
  for (const char* daemon : {"identity", "management", "proxy"})
    if (!member(all, daemon).contains("error")) ++answering;
  std::string version;
  for (const char* daemon : {"management", "identity", "proxy"})
    if (version.empty()) version = textOf(member(all, daemon), "version");
  screen.section("Wayleave");
  screen.line(fmt::format("{}{} of 3 daemons running; {}", version.empty() ? "" : version + ", ", answering,
                          problems.empty() ? "all is well" : fmt::format("{} problem{}", problems.size(), problems.size() == 1 ? "" : "s")),
              problems.empty() ? "32" : problems.front().grave ? "31" : "33");
  if (problems.empty()) return;
  screen.blank();
  screen.section("Problems");
  for (const Problem& problem : problems) {
    screen.line((problem.grave ? "✗ " : "! ") + problem.what, problem.grave ? "31" : "33");
    if (!problem.action.empty()) screen.line("→ " + problem.action, nullptr, 2);
  }
}

void enrolment(Screen& screen, const json& management, Wall now) {
  const json& enrolment = member(management, "enrolment");
  const std::string state = textOf(enrolment, "state");
  screen.section("Enrolment");
  if (state.empty() || state == "not enrolled" || state == "none") return screen.line("not enrolled");
  screen.line(fmt::format("{}{}", state, textOf(enrolment, "server").empty() ? "" : " with " + textOf(enrolment, "server")));
  std::string contact;
  if (const std::string last = textOf(enrolment, "lastContact"); !last.empty()) contact = "last contact " + relative(last, now);
  if (const std::string next = textOf(enrolment, "nextPoll"); !next.empty()) contact += (contact.empty() ? "next poll " : ", next poll ") + relative(next, now);
  if (!contact.empty()) screen.line(contact);
}

// "com.apple.configuration.network.vpn.vpn-plugin" → "configuration.network.vpn.vpn-plugin".
std::string shortType(std::string type) {
  constexpr std::string_view kApple = "com.apple.";
  if (type.starts_with(kApple)) type.erase(0, kApple.size());
  return type;
}

void declarations(Screen& screen, const json& management) {
  const json& all = arrayOf(management, "declarations");
  if (all.empty()) return;
  screen.section("Declarations");
  for (const json& declaration : all) {
    const std::string valid = textOf(declaration, "valid");
    const bool bad = valid == "invalid" || valid == "no";
    const bool active = textOf(declaration, "active") == "yes";
    std::string state = bad ? "invalid" : active ? "active" : "inactive";
    if (valid == "unknown") state += ", not checked yet";
    screen.line(fmt::format("{} {}  {}  {}", bad ? "✗" : active ? "✓" : "·", textOf(declaration, "identifier"), shortType(textOf(declaration, "type")), state), bad ? "31" : nullptr);
    if (bad) continue;  // its reasons stand above
    for (const json& reason : arrayOf(declaration, "reasons"))
      screen.line(reason.is_string() ? printable(reason.get<std::string>())
                                     : textOf(reason, "code") + (textOf(reason, "description").empty() ? "" : ": " + textOf(reason, "description")),
                  "2", 2);
  }
}

void profiles(Screen& screen, const json& management, Wall now) {
  screen.section("Profiles");
  if (arrayOf(management, "profiles").empty()) return screen.line("none");
  for (const json& profile : arrayOf(management, "profiles")) {
    const std::string name = textOf(profile, "displayName");
    const std::string removal = textOf(profile, "removedAt");
    screen.line(fmt::format("{}{}  installed {}{}", textOf(profile, "identifier"), name.empty() ? "" : "  \"" + name + "\"", relative(textOf(profile, "installedAt"), now),
                            removal.empty() ? "" : ", removed " + relative(removal, now)));
  }
}

void identities(Screen& screen, const json& answer, Wall now) {
  screen.section("Identities");
  if (answer.contains("error")) return screen.line("not known");
  if (arrayOf(answer, "identities").empty()) return screen.line("none");
  for (const json& identity : arrayOf(answer, "identities")) {
    screen.line(fmt::format("{}  {}, {} key{}", textOf(identity, "subject"), textOf(identity, "keyType"), textOf(identity, "keyKind"),
                            textOf(identity, "attested") == "yes" ? ", attested" : ""));
    const auto ends = parseTime(textOf(identity, "notAfter"));
    const std::string renewal = textOf(identity, "renewAfter");
    screen.line(fmt::format("{} {}; {}; from {}", ends && *ends <= now ? "expired" : "expires", relative(textOf(identity, "notAfter"), now),
                            renewal.empty() ? "does not renew itself" : "renewal due " + relative(renewal, now), textOf(identity, "profileIdentifier")),
                "2", 2);
  }
}

void gateways(Screen& screen, const json& proxy) {
  screen.section("Gateways");
  if (proxy.contains("error")) return screen.line("not known");
  const json& configurations = arrayOf(proxy, "configurations");
  if (configurations.empty()) screen.line("none");
  for (const json& configuration : configurations) {
    const json& identity = member(configuration, "identity");
    const bool ready = textOf(identity, "state") == "ready";
    screen.line(fmt::format("{} \"{}\"  {}  {}", ready ? "✓" : "✗", textOf(configuration, "name"), textOf(configuration, "gateway"), ready ? "as " + textOf(identity, "subject") : "no usable identity"), ready ? nullptr : "31");
    screen.line(fmt::format("{} included and {} excluded rules; otherwise {}", textOf(configuration, "includedRules"), textOf(configuration, "excludedRules"),
                            textOf(configuration, "failurePolicy") == "direct" ? "direct when the gateway fails" : "blocked when the gateway fails"),
                "2", 2);
  }
  const json& flows = member(proxy, "flows");
  const json& capture = member(proxy, "capture");
  const std::string mode = textOf(capture, "mode");
  screen.section("Flows");
  screen.line(fmt::format("{} now, {} since the start; {}", numberOf(flows, "active"), numberOf(flows, "total"),
                          textOf(capture, "installed") == "yes" ? "capture is on" : mode == "none" ? "no capture: connections come to a listener" : "capture is off"));
}

}  // namespace

std::string statusScreen(const json& all, const std::vector<Problem>& problems, Wall now, const ScreenStyle& style) {
  Screen screen(style);
  head(screen, all, problems);
  screen.blank();
  const json& management = member(all, "management");
  if (!management.contains("error")) {
    enrolment(screen, management, now);
    declarations(screen, management);
    profiles(screen, management, now);
  }
  identities(screen, member(all, "identities"), now);
  gateways(screen, member(all, "proxy"));
  return screen.take();
}

}  // namespace wayleave::cli
