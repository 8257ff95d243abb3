#pragma once

// When an identity is renewed. The device certificate at two thirds of its life, at half when it lives 30 days or less; a jitter
// of up to 5 % of the life before that, fixed per identity, keeps a fleet that enrolled together from renewing together.

#include <string_view>

#include "base/clock.h"

namespace wayleave::enrolment {

// `identity`: its id, from which the jitter follows. Never before notBefore.
Wall renewalTime(Wall notBefore, Wall notAfter, std::string_view identity);

// How long to wait after `failures` failed attempts in a row: 1 min, doubled each time, at most 6 h.
std::chrono::seconds renewalBackoff(int failures);

}  // namespace wayleave::enrolment
