#include "capture/linux/nft_table.h"

#include <fmt/format.h>
#include <nftables/libnftables.h>

#include <algorithm>

#include "base/owned.h"
#include "capture/linux/names.h"

namespace wayleave::capture::platform {

struct NftTable::Impl {
  Handle<nft_ctx, nft_ctx_free> context;
  bool claimed = false;
};

NftTable::NftTable(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
NftTable::NftTable(NftTable&&) noexcept = default;
NftTable& NftTable::operator=(NftTable&&) noexcept = default;
NftTable::~NftTable() = default;  // closing the context's socket removes the table

Result<NftTable> NftTable::open() {
  auto impl = std::make_unique<Impl>();
  impl->context.reset(nft_ctx_new(NFT_CTX_DEFAULT));
  if (!impl->context) return fail(Reason::Io, "libnftables gave no context");
  nft_ctx_buffer_error(impl->context.get());
  nft_ctx_buffer_output(impl->context.get());
  return NftTable(std::move(impl));
}

Status NftTable::run(const std::string& script) {
  const int result = nft_run_cmd_from_buffer(impl_->context.get(), script.c_str());
  std::string complaint = nft_ctx_get_error_buffer(impl_->context.get());
  (void)nft_ctx_get_output_buffer(impl_->context.get());  // resets it
  if (result == 0) return {};
  std::replace(complaint.begin(), complaint.end(), '\n', ' ');
  return fail(Reason::Io, fmt::format("nftables refused the rules: {}", complaint),
              "proxyd needs CAP_NET_ADMIN and a kernel with NFT_TPROXY and owned tables (5.12)");
}

Status NftTable::claim() {
  if (impl_->claimed) return {};
  // A table that nobody owns is a leftover of a kernel without ownership or of someone's `nft -f`. One that is owned
  // cannot be deleted by us, and then the next step fails.
  (void)run(fmt::format("delete table inet {}\n", kTableName));
  if (auto made = run(fmt::format("create table inet {} {{\n  flags owner\n}}\n", kTableName)); !made) {
    if (run(fmt::format("list table inet {}\n", kTableName)))
      return fail(Reason::Conflict, fmt::format("another process owns the nftables table inet {}", kTableName),
                  "only one wayleave-proxyd can capture in a network namespace; stop the other one");
    return made;
  }
  impl_->claimed = true;
  return {};
}

Status NftTable::remove() {
  if (!impl_->claimed) return {};
  if (auto gone = run(fmt::format("delete table inet {}\n", kTableName)); !gone) return gone;
  impl_->claimed = false;
  return {};
}

bool NftTable::claimed() const { return impl_->claimed; }

}  // namespace wayleave::capture::platform
