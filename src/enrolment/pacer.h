#pragma once

#include <chrono>

namespace wayleave::enrolment {

// Waiting as a dependency: a daemon that stops must not sleep on, and tests do not sleep at all.
class Pacer {
 public:
  virtual ~Pacer() = default;
  // False when the program is stopping.
  virtual bool wait(std::chrono::milliseconds time) = 0;
};

}  // namespace wayleave::enrolment
