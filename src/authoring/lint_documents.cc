// Files that are neither profiles nor declarations and yet belong to management: what a credential asset refers to, status
// reports, what servers answer, and the bodies of the MDM protocol.

#include <algorithm>

#include <fmt/format.h>

#include "authoring/lint_internal.h"
#include "management/cms.h"
#include "management/declarations/json_document.h"
#include "management/documents/credential_document.h"
#include "management/documents/mdm_document.h"
#include "management/documents/protocol_document.h"
#include "management/profile.h"

namespace wayleave::authoring {
namespace {

std::string_view firstText(ByteView bytes) {
  std::string_view text = asText(bytes);
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  const size_t start = text.find_first_not_of(" \t\r\n");
  return start == std::string_view::npos ? std::string_view() : text.substr(start);
}

bool looksLikePropertyList(ByteView bytes) {
  return management::looksLikeCms(bytes) || asText(bytes).starts_with("bplist") || firstText(bytes).starts_with('<');
}

// JSON of one value that is no object, as text files rarely begin.
bool looksLikeScalar(ByteView bytes) {
  const std::string_view text = firstText(bytes);
  if (text.starts_with("-----BEGIN ")) return false;  // PEM
  return !text.empty() && (text.front() == '-' || text.front() == '"' || (text.front() >= '0' && text.front() <= '9'));
}

Result<management::JsonDocument> readDocument(const LintInput& input) { return management::readJson(input.bytes, {.nulls = true}); }

}  // namespace

bool looksLikeJson(ByteView bytes) {
  const std::string_view text = firstText(bytes);
  return text.starts_with('{') || text.starts_with('[');
}

FileKind kindOf(const LintInput& input) {
  const bool json = looksLikeJson(input.bytes) || input.name.ends_with(".json") || looksLikeScalar(input.bytes);
  if (looksLikePropertyList(input.bytes) || input.name.ends_with(".mobileconfig") || !json) {
    if (management::looksLikeCms(input.bytes)) return FileKind::Profile;
    const Result<plist::Document> document = plist::parse(input.bytes, {.limits = management::ImportOptions{}.limits});
    const bool isBody = document && document->root.dictionary() != nullptr && management::mdmDocumentOf(*document->root.dictionary());
    return isBody ? FileKind::MdmBody : FileKind::Profile;
  }
  const Result<management::JsonDocument> document = readDocument(input);
  if (!document || document->root.dictionary() == nullptr) return FileKind::Declaration;
  const plist::Dictionary& root = *document->root.dictionary();
  return management::credentialKindOf(root) || management::protocolDocumentOf(root) ? FileKind::Document : FileKind::Declaration;
}

std::vector<LintFinding> lintDocument(const LintInput& input) {
  std::vector<management::Finding> findings;
  management::Report report(findings);
  Result<management::JsonDocument> document = readDocument(input);  // an object: kindOf() has seen it
  std::string_view rule = "document";
  if (const auto credential = management::credentialKindOf(*document->root.dictionary())) {
    rule = "credential";
    report.note("", fmt::format("is a credential document, {}", text(*credential)));
    // As the device reads it: null is no value there.
    Result<management::JsonDocument> strict = management::readJson(input.bytes);
    if (strict) {
      report.useLines(std::move(strict->lines));
      management::checkCredentialDocument(*credential, std::move(*strict->root.dictionary()), report);
    } else {
      report.error("", strict.error().message);
    }
  } else if (const auto protocol = management::protocolDocumentOf(*document->root.dictionary())) {
    report.useLines(std::move(document->lines));
    report.note("", fmt::format("is {}", text(*protocol)));
    management::checkProtocolDocument(*protocol, *document->root.dictionary(), "", report);
  }
  std::vector<LintFinding> out;
  for (const management::Finding& finding : findings) out.push_back(toLintFinding(finding, input.name, rule));
  return out;
}

std::vector<LintFinding> lintMdmBody(const LintInput& input, const LintOptions& options) {
  std::vector<management::Finding> findings;
  management::Report report(findings);
  Result<plist::Document> document = plist::parse(input.bytes, {.limits = management::ImportOptions{}.limits, .recordLines = true});
  if (document && document->root.dictionary() != nullptr) {
    for (const std::string& warning : document->warnings) report.warn("", warning);
    report.useLines(std::move(document->lines));
    if (const auto body = management::mdmDocumentOf(*document->root.dictionary())) {
      report.note("", "is " + body->description());
      management::checkMdmDocument(*body, *document->root.dictionary(), report, options.now);
    }
  }
  std::vector<LintFinding> out;
  for (const management::Finding& finding : findings) out.push_back(toLintFinding(finding, input.name, "mdm-message"));
  return out;
}

}  // namespace wayleave::authoring
