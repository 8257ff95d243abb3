#pragma once

// Everything that can be said about a reference from its bytes alone: what they mean, where the item lives, what each
// call returns in each context, and what to do instead.

#include <string>
#include <utility>
#include <vector>

#include "keychain/dispatch/dispatch.h"
#include "keychain/explain/statement.h"

namespace wayleave::keychain::explain {

// One way to use a reference, a column of the matrix.
struct Call {
  std::string name;  // "SecItemCopyMatching, reference alone"
  dispatch::Api api = dispatch::Api::CopyMatching;
  dispatch::Query query;
};

// A data protection reference does not say which of the two keychains it belongs to, so both are predicted.
struct Cell {
  dispatch::Prediction inUser;    // the row is in the user's keychain; for a file reference: the item exists
  dispatch::Prediction inSystem;  // the row is in the system data protection keychain; for a file reference as inUser
  bool differs() const { return inUser.status != inSystem.status; }
};

struct MatrixRow {
  const dispatch::Caller* caller = nullptr;
  std::vector<Cell> cells;  // one per call
};

struct ReferenceExplanation {
  Bytes bytes;
  Decoded decoded;                                          // with fields
  std::string form;                                         // "file keychain (ssui)", "data protection keychain, UUID"
  std::vector<std::pair<std::string, std::string>> values;  // the decoded fields as a table
  std::vector<Statement> where;
  std::vector<Statement> notes;  // what is commonly believed and wrong, and what the form implies
  std::vector<Call> calls;
  std::vector<MatrixRow> matrix;
  std::vector<Advice> advice;
};

// `callers`: rows of the matrix; empty for every context. Errors: those of decodeReference.
Result<ReferenceExplanation> explainReference(ByteView bytes, bool lenient,
                                              const std::vector<const dispatch::Caller*>& callers = {});

// One lookup of one's own in some contexts.
struct QueryExplanation {
  dispatch::Api api = dispatch::Api::CopyMatching;
  dispatch::Query query;
  std::vector<MatrixRow> rows;  // one cell each
};
QueryExplanation explainQuery(dispatch::Api api, const dispatch::Query& query,
                              const std::vector<const dispatch::Caller*>& callers = {});

// What to do when a data protection reference does not resolve in a daemon, best evidence first.
const std::vector<Advice>& waysOutOfTheDaemon();

}  // namespace wayleave::keychain::explain
