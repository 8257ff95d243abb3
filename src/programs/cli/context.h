#pragma once

// What every command shares: where the daemons are, how to print, and which exit status the program ends with.

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/result.h"
#include "localapi/client.h"

namespace wayleave::cli {

// What scripts may rely on (man page, section "Exit status").
enum class Exit : int {
  Ok = 0,
  Failure = 1,
  Usage = 2,
  NotFound = 3,
  Denied = 4,       // no grant, or no right to change anything
  Unavailable = 5,  // a daemon that should answer does not
  BadInput = 6,     // a profile, reference or file was refused
  Timeout = 7,
};
Exit exitFor(Reason reason);

struct Context {
  std::string runtimeDir;  // of the three sockets
  bool json = false;
  Exit exit = Exit::Ok;

  std::string socket(std::string_view daemon) const;  // "identity", "management", "proxy"
  localapi::Client client(std::string_view daemon, std::chrono::milliseconds timeout = std::chrono::seconds{30}) const;

  // Prints the error (red on a terminal, as JSON with --json) and sets the exit status.
  void fail(const Error& error);
  // Parsed answer of a daemon, or nothing after fail().
  std::optional<nlohmann::json> ask(std::string_view daemon, std::string_view method, std::string_view path,
                                    std::string_view body = {});
};

bool colourful(int fd);  // a terminal, and NO_COLOR is not set
std::string styled(int fd, std::string_view code, std::string_view text);  // "1" bold, "31" red, "2" dim
void printJson(const nlohmann::json& value);
// Removes control characters: what a daemon quotes from outside must not steer the terminal.
std::string printable(std::string_view text);
// A member as text, whatever its type; empty when absent.
std::string textOf(const nlohmann::json& object, const char* name);
uint64_t numberOf(const nlohmann::json& object, const char* name);
// The array under `name`; an empty one when absent.
const nlohmann::json& arrayOf(const nlohmann::json& object, const char* name);

}  // namespace wayleave::cli
