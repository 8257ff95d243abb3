#pragma once

// Telling systemd how we are (sd_notify(3)), without its library: one datagram to $NOTIFY_SOCKET.

#include <string_view>

namespace wayleave {

// "READY=1", "RELOADING=1", "STOPPING=1". Nothing happens when nobody asked to be told.
void notifySupervisor(std::string_view state);

}  // namespace wayleave
