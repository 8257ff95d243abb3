// The reader against files of our own writer, and against the public samples when they are there.

#include "keychain/file_keychain.h"

#include <gtest/gtest.h>
#include <openssl/pkcs12.h>

#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/osstatus.h"
#include "keychain/identity_test_support.h"
#include "keychain/kych_writer.h"

namespace wayleave::keychain {
namespace {

constexpr std::string_view kPassword = "correct horse";
constexpr std::string_view kPath = "/Library/Keychains/System.keychain";

FileReference referenceTo(const fixtures::Made& made) {
  const Bytes bytes = mintFileReference(kPath, made.issuer, made.serial).value();
  return std::get<FileReference>(decodeReference(bytes).value().reference);
}

struct Fixture {
  fixtures::Made ca = fixtures::make(fixtures::newEcKey(), "Fixture CA");
  fixtures::Made leaf = fixtures::make(fixtures::newRsaKey(), "device", &ca);
  Bytes bytes, systemKey;
};

Fixture fixture(uint32_t version, KychWriter::KeyOptions options = {}) {
  Fixture out;
  KychWriter writer(version, kPassword);
  EXPECT_TRUE(writer.addCertificate(out.ca.der, "Fixture CA"));
  EXPECT_TRUE(writer.addCertificate(out.leaf.der, "device"));
  EXPECT_TRUE(writer.addPrivateKey(out.leaf.pkcs8, "device", options));
  EXPECT_TRUE(writer.addGenericPassword("account", "service", "secret"));
  out.bytes = writer.write().value();
  out.systemKey = writer.systemKey();
  return out;
}

TEST(FileKeychain, ResolvesAReferenceToItsCertificateKeyAndChainWithoutAnySecret) {
  const Fixture f = fixture(kBlobVersionClassic);
  const FileKeychain keychain = FileKeychain::open(f.bytes).value();
  EXPECT_EQ(keychain.certificates().size(), 2u);
  EXPECT_EQ(keychain.privateKeys().size(), 1u);
  const KeychainItem item = keychain.resolve(referenceTo(f.leaf)).value();
  EXPECT_EQ(item.certificate->der, f.leaf.der);
  EXPECT_EQ(item.certificate->label, "device");
  ASSERT_EQ(item.chain.size(), 1u);
  EXPECT_EQ(item.chain[0].der, f.ca.der);
  EXPECT_EQ(item.key->label, item.certificate->publicKeyHash);
  EXPECT_EQ(item.key->bits, 2048u);
  EXPECT_EQ(item.keyState, PrivateKeyState::Locked);
}

TEST(FileKeychain, FindsBothByteOrdersOfCertTypeAndNotAnotherSerial) {
  const Fixture f = fixture(kBlobVersionClassic);
  const FileKeychain keychain = FileKeychain::open(f.bytes).value();
  FileReference reference = referenceTo(f.leaf);
  reference.item.attributes[0] = {0, 0, 0, 1};
  EXPECT_TRUE(keychain.resolve(reference));
  reference.item.attributes[2].back() ^= 1;
  EXPECT_EQ(keychain.resolve(reference).error().osStatus, errSecItemNotFound);
}

TEST(FileKeychain, UnlocksBothMacVariantsByPasswordAndBySystemKey) {
  for (const uint32_t version : {kBlobVersionClassic, kBlobVersionPartitions}) {
    const Fixture f = fixture(version);
    FileKeychain keychain = FileKeychain::open(f.bytes).value();
    EXPECT_EQ(keychain.blobVersion(), version);
    EXPECT_EQ(keychain.unlockWithPassword("wrong").error().reason, Reason::WrongPassword);
    EXPECT_FALSE(keychain.unlocked());
    ASSERT_TRUE(keychain.unlockWithPassword(kPassword));
    const KeychainItem item = keychain.resolve(referenceTo(f.leaf)).value();
    EXPECT_EQ(item.keyState, PrivateKeyState::Usable) << item.keyDetail;
    EXPECT_EQ(toBytes(keychain.privateKey(item.key->label).value().view()), f.leaf.pkcs8);

    FileKeychain again = FileKeychain::open(f.bytes).value();
    ASSERT_TRUE(again.unlockWithSystemKey(f.systemKey));
    EXPECT_EQ(again.resolve(referenceTo(f.leaf)).value().keyState, PrivateKeyState::Usable);
  }
}

TEST(FileKeychain, RefusesTheSystemKeyOfAnotherKeychain) {
  FileKeychain keychain = FileKeychain::open(fixture(kBlobVersionClassic).bytes).value();
  EXPECT_EQ(keychain.unlockWithSystemKey(fixture(kBlobVersionClassic).systemKey).error().reason, Reason::KeyMismatch);
  EXPECT_EQ(keychain.unlockWithSystemKey(Bytes(47)).error().reason, Reason::BadInput);
  EXPECT_EQ(keychain.unlockWithSystemKey(Bytes(48)).error().reason, Reason::BadInput);
}

TEST(FileKeychain, ShowsPartitionListsAndExtractability) {
  const Fixture f =
      fixture(kBlobVersionPartitions, {.extractable = false, .partitions = {"apple:", "teamid:ABCDE12345"}});
  FileKeychain keychain = FileKeychain::open(f.bytes).value();
  const std::vector<KeychainKey> keys = keychain.privateKeys();
  EXPECT_EQ(keys[0].partitions, (std::vector<std::string>{"apple:", "teamid:ABCDE12345"}));
  EXPECT_FALSE(keys[0].extractable);
  ASSERT_TRUE(keychain.unlockWithPassword(kPassword));
  const KeychainItem item = keychain.resolve(referenceTo(f.leaf)).value();
  EXPECT_EQ(keychain.exportPkcs12(item, "p").error().reason, Reason::NotEntitled);
}

TEST(FileKeychain, ExportsAnIdentityThatOpenSslReads) {
  const Fixture f = fixture(kBlobVersionClassic);
  FileKeychain keychain = FileKeychain::open(f.bytes).value();
  EXPECT_EQ(keychain.exportPkcs12(keychain.resolve(referenceTo(f.leaf)).value(), "p").error().reason,
            Reason::WrongPassword);
  ASSERT_TRUE(keychain.unlockWithPassword(kPassword));
  const Secret p12 = keychain.exportPkcs12(keychain.resolve(referenceTo(f.leaf)).value(), "p").value();
  const unsigned char* at = p12.view().data();
  const Handle<PKCS12, PKCS12_free> parsed(d2i_PKCS12(nullptr, &at, static_cast<long>(p12.view().size())));
  ASSERT_TRUE(parsed);
  EVP_PKEY* key = nullptr;
  X509* certificate = nullptr;
  ASSERT_EQ(PKCS12_parse(parsed.get(), "p", &key, &certificate, nullptr), 1);
  const fixtures::PkeyPtr ownedKey(key);
  const fixtures::X509Ptr ownedCertificate(certificate);
  EXPECT_EQ(EVP_PKEY_eq(key, f.leaf.key.get()), 1);
  EXPECT_EQ(X509_cmp(certificate, f.leaf.certificate.get()), 0);
}

TEST(FileKeychain, ResolvesGenericPasswordsByTheirPrimaryKey) {
  const FileKeychain keychain = FileKeychain::open(fixture(kBlobVersionClassic).bytes).value();
  FileReference reference;
  reference.keychainPath = kPath;
  reference.item = {RecordType::GenericPassword, {toBytes("account"), toBytes("service")}};
  EXPECT_EQ(keychain.resolve(reference).value().type, RecordType::GenericPassword);
  reference.item.attributes[1] = toBytes("another");
  EXPECT_EQ(keychain.resolve(reference).error().reason, Reason::NotFound);
  reference.item.attributes.pop_back();
  EXPECT_EQ(keychain.resolve(reference).error().reason, Reason::BadInput);
}

TEST(FileKeychain, ReportsADamagedKeyInsteadOfAnAbsentOne) {
  Fixture f = fixture(kBlobVersionClassic);
  FileKeychain good = FileKeychain::open(f.bytes).value();
  const KychRelation& relation = *good.file().relation(0x10);
  const KychRecord record = good.file().record(relation, 0);
  f.bytes[record.fileOffset() + 24 + 27 * 4 + 300] ^= 1;  // inside the encrypted part
  FileKeychain keychain = FileKeychain::open(f.bytes).value();
  ASSERT_TRUE(keychain.unlockWithPassword(kPassword));
  const KeychainItem item = keychain.resolve(referenceTo(f.leaf)).value();
  EXPECT_EQ(item.keyState, PrivateKeyState::Undecodable);
  EXPECT_EQ(item.keyDetail, "unwrap key: the key's MAC does not verify");
}

TEST(FileKeychain, ReadsCertificatesOfAKeychainWhoseBlobVersionIsUnknown) {
  Fixture f = fixture(kBlobVersionClassic);
  const FileKeychain known = FileKeychain::open(f.bytes).value();
  const KychRelation& relation = *known.file().relation(0x80008000);
  f.bytes[known.file().record(relation, 0).fileOffset() + 24 + 6] = 0x77;  // the version's third byte
  FileKeychain keychain = FileKeychain::open(f.bytes).value();
  EXPECT_EQ(keychain.resolve(referenceTo(f.leaf)).value().keyState, PrivateKeyState::Locked);
  EXPECT_EQ(keychain.unlockWithPassword(kPassword).error().reason, Reason::Unsupported);
}

TEST(FileKeychain, NormalisesPrintableNamesOnBothSides) {
  const fixtures::Made made = fixtures::make(fixtures::newEcKey(), "Mixed  Case", nullptr, true);
  KychWriter writer(kBlobVersionClassic, kPassword);
  ASSERT_TRUE(writer.addCertificate(made.der, "x"));
  const FileKeychain keychain = FileKeychain::open(writer.write().value()).value();
  EXPECT_TRUE(keychain.resolve(referenceTo(made)));
}

TEST(KychFile, NamesTheOffsetOfWhatIsWrong) {
  const Bytes good = fixture(kBlobVersionClassic).bytes;
  EXPECT_EQ(KychFile::parse(toBytes("kyc")).error().message, "keychain file: no magic `kych` at offset 0");
  EXPECT_EQ(KychFile::parse(toBytes("kych")).error().message, "keychain file: version is beyond the end at offset 4");
  Bytes bad = good;
  bad[7] = 1;
  EXPECT_EQ(KychFile::parse(bad).error().message, "keychain file: unknown version 0x00010001 at offset 4");
  bad = good;
  bad[12] = 0xff;
  EXPECT_EQ(KychFile::parse(bad).error().reason, Reason::BadInput);
  bad = good;
  bad[24] = 0xff;  // table count
  EXPECT_EQ(KychFile::parse(bad).error().reason, Reason::BadInput);
  for (size_t length = 0; length < good.size(); length += 97)
    EXPECT_FALSE(KychFile::parse(Bytes(good.begin(), good.begin() + static_cast<ptrdiff_t>(length)))) << length;
}

TEST(KychCrypto, TheTwoMacsDifferAndTheOldOneDependsOnTheChunkBorder) {
  const Bytes key(20, 1), a = toBytes("abc"), b = toBytes("def"), ab = toBytes("abcdef");
  EXPECT_EQ(blobMac(kBlobVersionPartitions, key, a, b), blobMac(kBlobVersionPartitions, key, ab, {}));
  EXPECT_NE(blobMac(kBlobVersionClassic, key, a, b), blobMac(kBlobVersionClassic, key, ab, {}));
  EXPECT_NE(blobMac(kBlobVersionClassic, key, a, b), blobMac(kBlobVersionPartitions, key, a, b));
}

TEST(KychCrypto, RefusesWrongSizesAndVersions) {
  EXPECT_EQ(tripleDesDecrypt(Bytes(24), Bytes(8), Bytes(7)).error().reason, Reason::BadInput);
  EXPECT_EQ(tripleDesDecrypt(Bytes(23), Bytes(8), Bytes(8)).error().reason, Reason::BadInput);
  EXPECT_EQ(DatabaseBlob::parse(Bytes(20)).error().reason, Reason::BadInput);
  EXPECT_EQ(KeyBlob::parse(Bytes(200)).error().reason, Reason::BadInput);
  Bytes blob;
  for (const uint32_t value : {kBlobMagic, 0x300u, 92u, 92u}) appendU32(blob, value);
  blob.resize(92);
  EXPECT_EQ(DatabaseBlob::parse(blob).error().reason, Reason::Unsupported);
}

TEST(PartitionsIn, FindsNothingInOtherBytes) {
  EXPECT_TRUE(partitionsIn(toBytes("3c3f786d6c")).empty());
  EXPECT_TRUE(partitionsIn({}).empty());
}

// --- Public samples ---

std::filesystem::path sample(const char* name) {
  const char* named = std::getenv("WAYLEAVE_SAMPLES");
  const std::filesystem::path root = named != nullptr ? named : WAYLEAVE_SOURCE_DIR "/../shared/samples";
  return root / "keychains" / name;
}

TEST(SampleKeychains, KeychainbreakersIdentityPairsAndUnlocks) {
  const auto path = sample("keychainbreaker-test.keychain-db");
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no public sample keychains here";
  FileKeychain keychain = FileKeychain::open(readFile(path, KychFile::kMaxBytes).value()).value();
  EXPECT_EQ(keychain.blobVersion(), kBlobVersionClassic);
  ASSERT_EQ(keychain.certificates().size(), 1u);
  const KeychainCertificate certificate = keychain.certificates()[0];
  EXPECT_EQ(describeName(certificate.issuer), "CN=keychainbreaker-test");
  const Bytes reference = mintFileReference(kPath, certificate.issuer, certificate.serial).value();
  EXPECT_EQ(reference.size(), 164u);  // vector B
  ASSERT_TRUE(keychain.unlockWithPassword("keychainbreaker-test"));
  const KeychainItem item =
      keychain.resolve(std::get<FileReference>(decodeReference(reference).value().reference)).value();
  EXPECT_EQ(item.keyState, PrivateKeyState::Usable) << item.keyDetail;
  EXPECT_TRUE(item.key->extractable);
  EXPECT_FALSE(keychain.unlockWithPassword("wrong"));
}

TEST(SampleKeychains, DtformatsLoginKeychainParses) {
  const auto path = sample("dtformats-login.keychain");
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no public sample keychains here";
  FileKeychain keychain = FileKeychain::open(readFile(path, KychFile::kMaxBytes).value()).value();
  EXPECT_EQ(keychain.blobVersion(), kBlobVersionClassic);
  EXPECT_EQ(keychain.unlockWithPassword("").error().reason, Reason::WrongPassword);
}

}  // namespace
}  // namespace wayleave::keychain
