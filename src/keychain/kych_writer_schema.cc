// The relations of a file keychain as macOS creates them (KeySchema.m4, Schema.m4): the same in every public sample.

#include "keychain/kych_writer.h"

namespace wayleave::keychain {
namespace {

constexpr uint32_t kNumber = 2, kSigned = 1, kDate = 5, kBlob = 6, kString = 0;
constexpr uint32_t kPublicKeys = 0x0f, kPrivateKeys = 0x10, kSymmetricKeys = 0x11, kGeneric = 0x80000000,
                   kInternet = 0x80000001, kAppleShare = 0x80000002, kCertificates = 0x80001000, kDatabase = 0x80008000;

constexpr uint32_t code(const char (&name)[5]) {
  return uint32_t{static_cast<uint8_t>(name[0])} << 24 | uint32_t{static_cast<uint8_t>(name[1])} << 16 |
         uint32_t{static_cast<uint8_t>(name[2])} << 8 | uint32_t{static_cast<uint8_t>(name[3])};
}

}  // namespace

std::vector<KychWriter::Relation> KychWriter::emptyRelations() {
  const std::vector<Column> common = {
      {code("cdat"), "", kDate},   {code("mdat"), "", kDate},   {code("desc"), "", kBlob},
      {code("icmt"), "", kBlob},   {code("crtr"), "", kNumber}, {code("type"), "", kNumber},
      {code("scrp"), "", kSigned}, {7, "PrintName", kBlob},     {8, "Alias", kBlob},
      {code("invi"), "", kSigned}, {code("nega"), "", kSigned}, {code("cusi"), "", kSigned},
      {code("prot"), "", kBlob}};
  const auto with = [&](std::initializer_list<Column> more) {
    std::vector<Column> all = common;
    all.insert(all.end(), more);
    return all;
  };
  std::vector<Column> key = {{0, "KeyClass", kNumber},
                             {1, "PrintName", kBlob},
                             {2, "Alias", kBlob},
                             {3, "Permanent", kNumber},
                             {4, "Private", kNumber},
                             {5, "Modifiable", kNumber},
                             {6, "Label", kBlob},
                             {7, "ApplicationTag", kBlob},
                             {8, "KeyCreator", kBlob},
                             {9, "KeyType", kNumber},
                             {10, "KeySizeInBits", kNumber},
                             {11, "EffectiveKeySize", kNumber},
                             {12, "StartDate", kBlob},
                             {13, "EndDate", kBlob},
                             {14, "Sensitive", kNumber},
                             {15, "AlwaysSensitive", kNumber},
                             {16, "Extractable", kNumber},
                             {17, "NeverExtractable", kNumber},
                             {18, "Encrypt", kNumber},
                             {19, "Decrypt", kNumber},
                             {20, "Derive", kNumber},
                             {21, "Sign", kNumber},
                             {22, "Verify", kNumber},
                             {23, "SignRecover", kNumber},
                             {24, "VerifyRecover", kNumber},
                             {25, "Wrap", kNumber},
                             {26, "Unwrap", kNumber}};
  const std::vector<uint32_t> keyIndex = {6, 7, 8, 9, 10, 11, 12, 13};
  return {
      {0, "CSSM_DL_DB_SCHEMA_INFO", {{0, "RelationID", kNumber}, {1, "RelationName", kString}}, {}, {}},
      {2,
       "CSSM_DL_DB_SCHEMA_ATTRIBUTES",
       {{0, "RelationID", kNumber},
        {1, "AttributeID", kNumber},
        {2, "AttributeNameFormat", kNumber},
        {3, "AttributeName", kString},
        {4, "AttributeNameID", kBlob},
        {5, "AttributeFormat", kNumber}},
       {},
       {}},
      {1,
       "CSSM_DL_DB_SCHEMA_INDEXES",
       {{0, "RelationID", kNumber},
        {1, "IndexID", kNumber},
        {2, "AttributeID", kNumber},
        {3, "IndexType", kNumber},
        {4, "IndexedDataLocation", kNumber}},
       {},
       {}},
      {3,
       "CSSM_DL_DB_SCHEMA_PARSING_MODULE",
       {{0, "ModuleID", kNumber}, {1, "AddinVersion", kString}, {2, "SSID", kNumber}, {3, "SubserviceType", kNumber}},
       {},
       {}},
      {kGeneric,
       "",
       with({{code("acct"), "", kBlob}, {code("svce"), "", kBlob}, {code("gena"), "", kBlob}}),
       {code("acct"), code("svce")},
       {}},
      {kAppleShare,
       "",
       with({{code("acct"), "", kBlob},
             {code("vlme"), "", kBlob},
             {code("srvr"), "", kBlob},
             {code("ptcl"), "", kNumber},
             {code("addr"), "", kBlob},
             {code("ssig"), "", kBlob}}),
       {code("acct"), code("vlme"), code("addr"), code("ssig")},
       {}},
      {kInternet,
       "",
       with({{code("acct"), "", kBlob},
             {code("sdmn"), "", kBlob},
             {code("srvr"), "", kBlob},
             {code("ptcl"), "", kNumber},
             {code("atyp"), "", kBlob},
             {code("port"), "", kNumber},
             {code("path"), "", kBlob}}),
       {code("acct"), code("sdmn"), code("srvr"), code("ptcl"), code("atyp"), code("port"), code("path")},
       {}},
      {kDatabase, "DBBlob", {}, {}, {}},
      {kPublicKeys, "CSSM_DL_DB_RECORD_PUBLIC_KEY", key, keyIndex, {}},
      {kPrivateKeys, "CSSM_DL_DB_RECORD_PRIVATE_KEY", key, keyIndex, {}},
      {kSymmetricKeys, "CSSM_DL_DB_RECORD_SYMMETRIC_KEY", key, keyIndex, {}},
      {kCertificates,
       "CSSM_DL_DB_RECORD_X509_CERTIFICATE",
       {{code("ctyp"), "CertType", kNumber},
        {code("cenc"), "CertEncoding", kNumber},
        {code("labl"), "PrintName", kBlob},
        {code("alis"), "Alias", kBlob},
        {code("subj"), "Subject", kBlob},
        {code("issu"), "Issuer", kBlob},
        {code("snbr"), "SerialNumber", kBlob},
        {code("skid"), "SubjectKeyIdentifier", kBlob},
        {code("hpky"), "PublicKeyHash", kBlob}},
       {code("ctyp"), code("issu"), code("snbr")},
       {}},
  };
}

}  // namespace wayleave::keychain
