#pragma once

// What may stand where the cursor is: from the program's own command tree, so that it cannot lag behind it, and from the
// daemons for names that only they know. The scripts of `wayleave completion` ask for it at every press of the tab key.

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "context.h"

namespace wayleave::cli {

// `words`: the command line without the program's name; the last one is being typed and may be empty. One candidate per
// line, a tab and its description behind it; the last line is ":files", ":folders" or ":none", for what the shell adds.
std::string complete(const CLI::App& app, Context& context, std::vector<std::string> words);

}  // namespace wayleave::cli
