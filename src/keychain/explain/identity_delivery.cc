#include "keychain/explain/identity_delivery.h"

namespace wayleave::keychain::explain {
namespace {

constexpr const char* kThread = "https://developer.apple.com/forums/thread/836496";
constexpr const char* kTn3137 = "https://developer.apple.com/documentation/technotes/tn3137-on-mac-keychains";

ProcessUse use(std::string_view context, Usable usable, std::string why, Certainty certainty) {
  const dispatch::Caller* caller = dispatch::findContext(context);
  return {std::string(context), caller != nullptr ? caller->title : "", usable, std::move(why), certainty};
}

Fate inFileKeychain(const Delivery& d) {
  const bool device = d.channel == DeliveryChannel::Device;
  const Certainty sure = d.source == DeliverySource::Pkcs12 ? Certainty::Documented : Certainty::Inferred;
  Fate fate;
  fate.keychain = {device ? "file keychain /Library/Keychains/System.keychain"
                          : "file keychain ~/Library/Keychains/login.keychain-db",
                   sure, kThread};
  fate.reference = {"`ssui`: path, issuer and serial; 196 bytes for a 65-byte issuer and a 20-byte serial", sure,
                    "docs/references.md, section 3"};
  if (device) {
    fate.processes = {
        use("daemon", Usable::Yes, "resolves, also before login; a signature made there is not shown in public", sure),
        use("app", Usable::Unknown,
            d.allowAllAppsAccess
                ? "System.keychain is searched; AllowAllAppsAccess opens the key"
                : "System.keychain is searched; the key's access list decides (AllowAllAppsAccess is false)",
            Certainty::Inferred),
        use("app-extension", Usable::Unknown, "as an app", Certainty::Inferred)};
  } else {
    fate.processes = {
        use("daemon", Usable::No, "`~` is root's home there, and the login keychain is not in its search list",
            Certainty::Documented),
        use("app", Usable::Unknown, "in the search list; the key's access list decides", Certainty::Inferred),
        use("app-extension", Usable::Unknown, "as an app", Certainty::Inferred)};
  }
  fate.remarks.push_back({"A software key: whoever is root can copy it" +
                              std::string(d.keyIsExtractable ? "; KeyIsExtractable is true" : ""),
                          Certainty::Documented, kTn3137});
  return fate;
}

Fate inDataProtection(const Delivery& d) {
  const bool device = d.channel == DeliveryChannel::Device;
  Fate fate;
  fate.keychain = {device ? "a data protection keychain: plausibly the system's (securityd_system), not established"
                          : "a data protection keychain: plausibly the user's (secd), not established",
                   Certainty::Inferred, kThread};
  fate.reference = {"20 bytes: `cert` and the UUID of the certificate's row", Certainty::Documented, kThread};
  fate.processes = {
      use("daemon", Usable::No, "every public lookup fails: -25291, -25300 or -34018, by the shape of the query",
          Certainty::Documented),
      use("app", device ? Usable::No : Usable::Unknown,
          device ? "if the row is in the system keychain, only com.apple.private.system-keychain reads it"
                 : "needs the row's access group, which is not publicly known",
          Certainty::Inferred),
      use("app-extension", Usable::Unknown,
          "reported to work for VPN providers with the capability com.apple.managed.vpn.shared, user channel",
          Certainty::Documented),
      use("entitled-daemon", Usable::Yes, "Apple's own daemons (802.1X, nehelper)", Certainty::Inferred)};
  if (d.allowAllAppsAccess)
    fate.remarks.push_back({"Whether AllowAllAppsAccess has any effect in a data protection keychain is not known.",
                            Certainty::Unknown,
                            {}});
  if (d.keyIsExtractable)
    fate.remarks.push_back(
        {"KeyIsExtractable says nothing here: a hardware-bound key never leaves.", Certainty::Documented, {}});
  if (!d.attest)
    fate.remarks.push_back({"Attest is false: the key is bound to the hardware, and nobody outside is told so.",
                            Certainty::Documented,
                            "https://developer.apple.com/documentation/devicemanagement/acmecertificate"});
  return fate;
}

}  // namespace

std::string_view text(DeliverySource source) {
  switch (source) {
    case DeliverySource::Pkcs12: return "PKCS#12";
    case DeliverySource::Scep: return "SCEP";
    case DeliverySource::Acme: return "ACME";
  }
  return "?";
}

std::string_view text(Usable usable) {
  switch (usable) {
    case Usable::Yes: return "yes";
    case Usable::No: return "no";
    case Usable::Unknown: return "not established";
  }
  return "?";
}

Fate fateOf(const Delivery& delivery) {
  if (delivery.source == DeliverySource::Acme && !delivery.hardwareBoundKnown) {
    Fate fate = inDataProtection(delivery);
    fate.remarks.push_back(
        {"The credential document decides: without HardwareBound it would be a software key, plausibly in a file "
         "keychain.",
         Certainty::Unknown,
         {}});
    return fate;
  }
  if (delivery.source == DeliverySource::Acme && delivery.hardwareBound) return inDataProtection(delivery);
  Fate fate = inFileKeychain(delivery);
  if (delivery.source == DeliverySource::Acme) {
    fate.keychain.certainty = fate.reference.certainty = Certainty::Unknown;
    fate.remarks.push_back(
        {"That HardwareBound decides the keychain of an ACME identity is second-hand.", Certainty::Unknown, {}});
  }
  return fate;
}

}  // namespace wayleave::keychain::explain
