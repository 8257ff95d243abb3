#include "enrolment/mdm/device.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <sstream>

#include "base/file.h"

namespace wayleave::enrolment::mdm {
namespace {

constexpr size_t kMostBytes = 64 * 1024;

std::string firstLine(const std::string& path) {
  const Result<Bytes> file = readFile(path, kMostBytes);
  if (!file) return {};
  std::string text(asText(*file));
  text.resize(std::min(text.find('\n'), text.size()));
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

// os-release(5): KEY=value, KEY="value".
std::string osRelease(const std::string& root, std::string_view key) {
  Result<Bytes> file = readFile(root + "/etc/os-release", kMostBytes);
  if (!file) file = readFile(root + "/usr/lib/os-release", kMostBytes);
  if (!file) return {};
  std::istringstream lines{std::string(asText(*file))};
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(key) || line.size() <= key.size() || line[key.size()] != '=') continue;
    std::string value = line.substr(key.size() + 1);
    std::erase_if(value, [](char c) { return c == '"' || c == '\''; });
    return value;
  }
  return {};
}

// Firmware that was never filled in.
bool saysSomething(std::string_view text) {
  constexpr std::array<std::string_view, 6> kEmpty{"None", "To be filled by O.E.M.", "System Serial Number", "Not Specified", "0", "Default string"};
  return !text.empty() && std::ranges::find(kEmpty, text) == kEmpty.end();
}

std::string upperHex(ByteView bytes) {
  std::string hex = toHex(bytes);
  std::ranges::transform(hex, hex.begin(), [](char c) { return c >= 'a' ? static_cast<char>(c - 'a' + 'A') : c; });
  return hex;
}

}  // namespace

Result<Device> readDevice(const std::string& root) {
  std::string machineId = firstLine(root + "/etc/machine-id");
  if (machineId.size() != 32)
    return fail(Reason::NotFound, "/etc/machine-id holds no machine id: this machine could not be recognised again",
                "run systemd-machine-id-setup");
  // The label keeps this number apart from whatever others derive from the machine-id.
  Bytes hash = sha256(asBytes("com.wayleave.mdm.udid\n" + machineId));
  hash.resize(16);
  hash[6] = static_cast<uint8_t>((hash[6] & 0x0f) | 0x80);  // RFC 9562 version 8: made by a rule of one's own
  hash[8] = static_cast<uint8_t>((hash[8] & 0x3f) | 0x80);
  const std::string hex = upperHex(hash);

  Device device;
  device.udid = fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4), hex.substr(16, 4), hex.substr(20));
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) == 0) device.hostName = host.data();
  if (device.hostName.empty()) device.hostName = "localhost";
  utsname kernel{};
  ::uname(&kernel);
  device.osName = osRelease(root, "NAME");
  if (device.osName.empty()) device.osName = "Linux";
  device.osVersion = osRelease(root, "VERSION_ID");
  if (device.osVersion.empty()) device.osVersion = kernel.release;
  device.buildVersion = kernel.release;
  device.productName = fmt::format("{} {}", kernel.sysname, kernel.machine);
  const std::string product = firstLine(root + "/sys/class/dmi/id/product_name");
  const std::string vendor = firstLine(root + "/sys/class/dmi/id/sys_vendor");
  device.model = saysSomething(product) ? product : "Linux";
  device.modelName = saysSomething(vendor) && saysSomething(product) ? vendor + " " + product : device.model;
  const std::string serial = firstLine(root + "/sys/class/dmi/id/product_serial");
  device.serialNumber = saysSomething(serial) ? serial : "WL" + hex.substr(0, 10);
  return device;
}

plist::Dictionary queryResponses(const Device& device, const std::vector<std::string>& queries) {
  const std::array<std::pair<std::string_view, plist::Value>, 14> known{{
      {"UDID", device.udid},
      {"DeviceName", device.hostName},
      {"HostName", device.hostName},
      {"LocalHostName", device.hostName.substr(0, device.hostName.find('.'))},
      {"OSVersion", device.osVersion},
      {"BuildVersion", device.buildVersion},
      {"ModelName", device.modelName},
      {"Model", device.model},
      {"ProductName", device.productName},
      {"SerialNumber", device.serialNumber},
      {"IsSupervised", false},
      {"IsActivationLockSupported", false},
      {"SupportsLOMDevice", false},
      {"AwaitingConfiguration", false},
  }};
  plist::Dictionary out;
  for (const auto& [key, value] : known)
    if (queries.empty() || std::ranges::find(queries, key) != queries.end()) out.set(std::string(key), value);
  return out;
}

}  // namespace wayleave::enrolment::mdm
