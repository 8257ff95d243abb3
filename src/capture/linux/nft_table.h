#pragma once

// Our nftables table, owned by this process: the kernel deletes it when the netlink socket inside the libnftables context
// closes, however the process ends (NFT_TABLE_F_OWNER, Linux 5.12).

#include <memory>
#include <string>

#include "base/result.h"

namespace wayleave::capture::platform {

class NftTable {
 public:
  // Errors: Io.
  static Result<NftTable> open();
  NftTable(NftTable&&) noexcept;
  NftTable& operator=(NftTable&&) noexcept;
  ~NftTable();

  // Creates the empty table. One that nobody owns is replaced. Errors: Conflict (another process owns it), Io.
  Status claim();
  // Runs one script as one transaction. Errors: Io with nft's own words.
  Status run(const std::string& script);
  Status remove();
  bool claimed() const;

 private:
  struct Impl;
  explicit NftTable(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace wayleave::capture::platform
