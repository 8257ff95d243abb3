#pragma once

// What managementd says while it installs or enrols, on a line that the result overwrites; only for a terminal.

#include <unistd.h>

#include <thread>

#include <fmt/format.h>

#include "context.h"
#include "localapi/json_reader.h"
#include "table.h"

namespace wayleave::cli {

class Progress {
 public:
  explicit Progress(const Context& context) {
    if (!context.json && isatty(STDERR_FILENO) == 1) {
      thread_ = std::jthread([client = context.client("management")](const std::stop_token& stop) {
        const auto onLine = [](std::string_view line) {
          const Result<nlohmann::json> event = localapi::parseJson(line);
          if (event && textOf(*event, "event") == "install-progress")
            fmt::print(stderr, "\r\033[K{}", textOf(*event, "message"));
          return true;
        };
        (void)client.follow("/v1/watch", onLine, stop);
      });
    }
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (!thread_.joinable()) return;
    thread_.request_stop();
    thread_.join();
    fmt::print(stderr, "\r\033[K");
  }

 private:
  std::jthread thread_;
};

}  // namespace wayleave::cli
