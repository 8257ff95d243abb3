// From TOML to grants. Every mistake of a file is reported at once, with its line and key.

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <span>

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "base/file.h"
#include "broker/grants.h"
#include "sandbox/privileges.h"

namespace wayleave::broker {
namespace {

constexpr size_t kMostFileBytes = 256 * 1024;
constexpr size_t kMostFiles = 256;
constexpr size_t kMostGrants = 1024;
constexpr double kMostPerMinute = 1e6;

constexpr std::array<Usage, 6> kUsages = {Usage::TlsClient, Usage::Digest, Usage::Sign,
                                          Usage::List,      Usage::Manage, Usage::Inspect};
// What both kinds of tables may say, and what one kind alone may.
constexpr std::array<std::string_view, 11> kCommonKeys = {
    "executable", "sha256", "user",   "group",                 "unit",           "owner",
    "require",    "accept", "usages", "signatures-per-minute", "signature-burst"};
constexpr std::array<std::string_view, 2> kGrantKeys = {"name", "access-groups"};
constexpr std::array<std::string_view, 1> kApplicationKeys = {"identifier"};
// Without these a grant would bind nothing, whatever else it says.
constexpr std::array kNeverAccepted = {ConditionName::Alive, ConditionName::Executable, ConditionName::NotTraced};

class FileParser {
 public:
  FileParser(const std::string& file, const Variables& variables, GrantSet& out)
      : file_(file), variables_(variables), out_(out) {}

  void parse(std::string_view text) {
    const toml::parse_result result = toml::parse(text, file_);
    if (!result) {
      const toml::parse_error& error = result.error();
      out_.problems.push_back(
          {file_, static_cast<int>(error.source().begin.line), {}, std::string(error.description())});
      return;
    }
    for (const auto& [key, node] : result.table())
      if (key.str() != "grant" && key.str() != "application")
        problem(node, std::string(key.str()), "is not known; a file holds [[grant]] and [[application]] tables");
    each(result.table(), "grant", [&](const toml::table& table, const std::string& path) { parseGrant(table, path); });
    each(result.table(), "application",
         [&](const toml::table& table, const std::string& path) { parseApplication(table, path); });
  }

 private:
  template <typename Function>
  void each(const toml::table& file, const char* kind, Function&& parseOne) {
    const toml::node* node = file.get(kind);
    if (node == nullptr) return;
    const toml::array* list = node->as_array();
    if (list == nullptr || !list->is_homogeneous(toml::node_type::table))
      return problem(*node, kind, fmt::format("must be written as [[{}]]", kind));
    for (size_t index = 0; index < list->size(); ++index) {
      if (out_.grants.size() >= kMostGrants)
        return problem(*list->get(index), kind, fmt::format("more than {} grants and applications", kMostGrants));
      parseOne(*list->get(index)->as_table(), fmt::format("{}[{}]", kind, index));
    }
  }

  void problem(const toml::node& node, std::string key, std::string message) {
    out_.problems.push_back({file_, static_cast<int>(node.source().begin.line), std::move(key), std::move(message)});
  }

  std::string expand(const toml::node& node, const std::string& key, std::string_view text) {
    std::string out;
    while (!text.empty()) {
      const size_t start = text.find("${");
      out += text.substr(0, start);
      if (start == std::string_view::npos) break;
      text.remove_prefix(start + 2);
      const size_t end = text.find('}');
      const auto found = variables_.find(text.substr(0, end));
      if (end == std::string_view::npos || found == variables_.end()) {
        std::string known;
        for (const auto& [name, value] : variables_) known += (known.empty() ? "" : ", ") + name;
        problem(node, key, fmt::format("unknown variable '{}'; known are {}", text.substr(0, end), known));
        return {};
      }
      out += found->second;
      text.remove_prefix(end + 1);
    }
    return out;
  }

  // A string, or a list of strings. `each` gets the element, its key and its expanded text.
  template <typename Function>
  void strings(const toml::table& table, const std::string& path, const char* name, Function&& each) {
    const toml::node* node = table.get(name);
    if (node == nullptr) return;
    const std::string key = path + "." + name;
    const auto one = [&](const toml::node& element, const std::string& where) {
      const auto* value = element.as_string();
      if (value == nullptr || value->get().empty())
        return problem(element, where, "must be a string that is not empty");
      const std::string text = expand(element, where, value->get());
      if (!text.empty()) each(element, where, text);
    };
    const toml::array* list = node->as_array();
    if (list == nullptr) return one(*node, key);
    if (list->empty()) return problem(*node, key, "must not be empty");
    for (size_t index = 0; index < list->size(); ++index) one(*list->get(index), fmt::format("{}[{}]", key, index));
  }

  // A name or a number.
  template <typename Id, typename Find>
  void account(const toml::table& table, const std::string& path, const char* name, std::optional<Id>& out,
               Find&& find) {
    const toml::node* node = table.get(name);
    if (node == nullptr) return;
    const std::string key = path + "." + name;
    if (const auto* number = node->as_integer()) {
      if (number->get() < 0 || number->get() > UINT32_MAX - 1) return problem(*node, key, "is out of range");
      out = static_cast<Id>(number->get());
      return;
    }
    const auto* value = node->as_string();
    if (value == nullptr) return problem(*node, key, "must be a name or a number");
    const std::string text = expand(*node, key, value->get());
    if (text.empty()) return;
    const auto id = find(text);
    if (!id) return problem(*node, key, id.error().message);
    out = *id;
  }

  void rate(const toml::table& table, const std::string& path, const char* name, double& out) {
    const toml::node* node = table.get(name);
    if (node == nullptr) return;
    const auto value = node->value<double>();
    if (!value || !(*value > 0) || *value > kMostPerMinute)
      return problem(*node, path + "." + name,
                     fmt::format("must be a number above 0 and up to {:.0f}", kMostPerMinute));
    out = *value;
  }

  void conditions(const toml::table& table, const std::string& path, const char* name, std::set<ConditionName>& out) {
    strings(table, path, name, [&](const toml::node& node, const std::string& key, const std::string& text) {
      const Result<ConditionName> condition = parseCondition(text);
      if (!condition) return problem(node, key, condition.error().message);
      if (std::string_view(name) == "accept" && std::ranges::find(kNeverAccepted, *condition) != kNeverAccepted.end())
        return problem(node, key, fmt::format("'{}' must always hold", text));
      out.insert(*condition);
    });
  }

  // The caller, the usages and the rates: what a grant and an application entry say in the same words.
  void parseCommon(const toml::table& table, const std::string& path, std::string_view kind,
                   std::span<const std::string_view> ownKeys, Grant& grant) {
    grant.file = file_;
    grant.line = static_cast<int>(table.source().begin.line);
    for (const auto& [key, node] : table)
      if (std::ranges::find(kCommonKeys, key.str()) == kCommonKeys.end() &&
          std::ranges::find(ownKeys, key.str()) == ownKeys.end())
        problem(node, path + "." + std::string(key.str()), fmt::format("is not a key of {}", kind));

    strings(table, path, "executable", [&](const toml::node& node, const std::string& key, const std::string& text) {
      if (!text.starts_with('/') || text.find("/../") != std::string::npos || text.ends_with('/'))
        return problem(node, key, "must be the absolute path of a program");
      grant.executables.push_back(text);
    });
    strings(table, path, "sha256", [&](const toml::node& node, const std::string& key, const std::string& text) {
      const Result<Bytes> digest = fromHex(text);
      if (!digest || digest->size() != 32) return problem(node, key, "must be 64 hexadecimal digits");
      grant.sha256.push_back(toHex(*digest));
    });
    account(table, path, "user", grant.user, [](std::string_view name) { return sandbox::findUser(name); });
    account(table, path, "group", grant.group, [](std::string_view name) { return sandbox::findGroup(name); });
    account(table, path, "owner", grant.owner, [](std::string_view name) { return sandbox::findUser(name); });
    strings(table, path, "unit", [&](const toml::node& node, const std::string& key, const std::string& text) {
      if (!grant.unit.empty()) return problem(node, key, "must be one unit");
      grant.unit = text;
    });
    conditions(table, path, "require", grant.require);
    conditions(table, path, "accept", grant.accept);
    strings(table, path, "usages", [&](const toml::node& node, const std::string& key, const std::string& text) {
      for (const Usage usage : kUsages)
        if (broker::text(usage) == text) {
          grant.usages.insert(usage);
          return;
        }
      problem(node, key,
              fmt::format("'{}' is not a usage; use tls-client, digest, sign, list, manage or inspect", text));
    });
    rate(table, path, "signatures-per-minute", grant.signaturesPerMinute);
    rate(table, path, "signature-burst", grant.signatureBurst);

    if (std::ranges::none_of(std::array{"executable", "user", "group", "unit"},
                             [&](const char* key) { return table.contains(key); }))
      problem(table, path, "describes every caller: say at least one of executable, user, group, unit");
    if ((table.contains("sha256") || table.contains("owner")) && !table.contains("executable"))
      problem(table, path, "sha256 and owner speak about an executable: say which");
  }

  void parseGrant(const toml::table& table, const std::string& path) {
    Grant grant;
    parseCommon(table, path, "a grant", kGrantKeys, grant);
    if (const toml::node* node = table.get("name");
        node == nullptr || !node->is_string() || node->as_string()->get().empty())
      problem(node == nullptr ? static_cast<const toml::node&>(table) : *node, path + ".name",
              "every grant needs a name");
    else
      grant.name = node->as_string()->get();
    strings(table, path, "access-groups", [&](const toml::node&, const std::string&, const std::string& text) {
      if (text == "*")
        grant.everyAccessGroup = true;
      else
        grant.accessGroups.insert(text);
    });
    if (!table.contains("usages")) problem(table, path, "needs usages");
    const bool needsGroups = std::ranges::any_of(grant.usages, [](Usage usage) { return usage != Usage::Inspect; });
    if (needsGroups && !table.contains("access-groups")) problem(table, path, "needs access-groups");
    out_.grants.push_back(std::move(grant));
  }

  void parseApplication(const toml::table& table, const std::string& path) {
    Grant entry;
    parseCommon(table, path, "an application", kApplicationKeys, entry);
    const std::string key = path + ".identifier";
    const toml::node* node = table.get("identifier");
    if (node == nullptr || !node->is_string()) {
      problem(node == nullptr ? static_cast<const toml::node&>(table) : *node, key,
              "every application needs an identifier: \"Bundle-ID (Team-ID)\" or \"Bundle-ID\"");
    } else {
      entry.application = node->as_string()->get();
      if (const auto parsed = parseComposedIdentifier(entry.application); !parsed)
        problem(*node, key, wayleave::describe(parsed.error()));
    }
    entry.name = "application " + entry.application;
    if (!table.contains("usages")) entry.usages = {Usage::TlsClient};
    for (const Usage usage : entry.usages)
      if (usage != Usage::TlsClient && usage != Usage::Digest && usage != Usage::Sign)
        problem(*table.get("usages"), path + ".usages",
                fmt::format("'{}' is not for applications: they see what is declared for them, and may be given "
                            "tls-client, digest and sign",
                            broker::text(usage)));
    out_.grants.push_back(std::move(entry));
  }

  const std::string& file_;
  const Variables& variables_;
  GrantSet& out_;
};

// Whoever can write a grant can use every identity.
bool writableByStrangers(const struct stat& info) {
  return (info.st_mode & (S_IWGRP | S_IWOTH)) != 0 ||
         !(info.st_uid == ::geteuid() || TrustedOwners::ofThisMachine().contains(info.st_uid));
}

}  // namespace

std::string describe(const GrantProblem& problem) {
  std::string out = problem.file;
  if (problem.line > 0) out += fmt::format(":{}", problem.line);
  if (!problem.key.empty()) out += fmt::format(": {}", problem.key);
  return out + ": " + problem.message;
}

GrantSet parseGrants(std::string_view toml, const std::string& file, const Variables& variables) {
  GrantSet set;
  FileParser(file, variables, set).parse(toml);
  return set;
}

GrantSet loadGrants(const std::string& folder, const Variables& variables) {
  GrantSet set;
  const auto refuse = [&](const std::string& file, std::string message) {
    set.problems.push_back({file, 0, {}, std::move(message)});
  };
  struct stat info{};
  if (::stat(folder.c_str(), &info) != 0) {
    refuse(folder, std::strerror(errno));
    return set;
  }
  if (writableByStrangers(info)) {
    refuse(folder, fmt::format("belongs to user {} with mode {:04o}: others could write grants", info.st_uid,
                               info.st_mode & 07777));
    return set;
  }
  std::vector<std::string> files;
  std::error_code code;
  for (std::filesystem::directory_iterator entry(folder, code), end; !code && entry != end; entry.increment(code))
    if (entry->path().extension() == ".toml") files.push_back(entry->path().string());
  if (code) refuse(folder, code.message());
  if (files.size() > kMostFiles) {
    refuse(folder, fmt::format("more than {} files", kMostFiles));
    return set;
  }
  std::ranges::sort(files);
  for (const std::string& file : files) {
    const Fd fd = Fd::adopt(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd || ::fstat(fd.borrow(), &info) != 0) {
      refuse(file, std::strerror(errno));
      continue;
    }
    if (!S_ISREG(info.st_mode) || writableByStrangers(info)) {
      refuse(file, fmt::format("belongs to user {} with mode {:04o}: others could change it", info.st_uid,
                               info.st_mode & 07777));
      continue;
    }
    const Result<Bytes> text = readAll(fd.borrow(), kMostFileBytes);
    if (!text) {
      refuse(file, text.error().message);
      continue;
    }
    FileParser(file, variables, set).parse(asText(*text));
  }
  return set;
}

}  // namespace wayleave::broker
