// The model against the facts: the six lookups of https://developer.apple.com/forums/thread/836496, the table of query
// shapes (docs/references.md, 6.8), each rule, and the service states.

#include "keychain/dispatch/dispatch.h"

#include <gtest/gtest.h>

#include "base/osstatus.h"
#include "keychain/dispatch/not_available.h"
#include "keychain/reference_vectors_test_support.h"

namespace wayleave::keychain::dispatch {
namespace {

const Bytes kRef20 = vectors::hex("6365727400112233445566778899aabbccddeeff");
const Bytes kSsui = vectors::hex(vectors::kVectorA);
const Reference kUuid = decodeReference(kRef20).value().reference;
const Reference kFile = decodeReference(kSsui).value().reference;

const Caller& who(std::string_view id) { return *findContext(id); }
Query query(const std::vector<std::string>& terms) { return parseQuery(terms, kRef20).value(); }
Prediction copyMatching(const std::vector<std::string>& terms, const Caller& caller, Home home = Home::SystemKeychain) {
  return predict(Api::CopyMatching, query(terms), caller, worldWith(kUuid, home));
}

// --- The six lookups of the post, in its context: a system extension ---

TEST(ThePostsQueries, One_ReferenceWithDataProtectionFlag_Minus25291) {
  const Prediction p = copyMatching({"ref=@", "flag=true"}, who("daemon"));
  EXPECT_EQ(p.status, errSecNotAvailable);
  EXPECT_EQ(p.decidedBy, "6.5");
  EXPECT_EQ(p.steps[1].rule, "2c");
  EXPECT_EQ(p.asked.size(), 1u);
  EXPECT_EQ(p.asked[0].side, Side::UserKeychain);
}

TEST(ThePostsQueries, Two_ReferenceWithSearchList_Minus50) {
  const Prediction p = copyMatching({"ref=@", "kSecMatchSearchList=System.keychain"}, who("daemon"));
  EXPECT_EQ(p.status, errSecParam);
  EXPECT_EQ(p.decidedBy, "10");
  EXPECT_TRUE(p.asked.empty());
  EXPECT_EQ(p.certainty, Certainty::Code);
}

TEST(ThePostsQueries, Three_ItemListWithSearchList_Minus25300) {
  const Prediction p =
      copyMatching({"kSecMatchItemList=@", "kSecMatchSearchList=System.keychain", "class=identity"}, who("daemon"));
  EXPECT_EQ(p.status, errSecItemNotFound);
  EXPECT_EQ(p.decidedBy, "F9");
  EXPECT_EQ(p.certainty, Certainty::Code);
  // Without a class the same query is refused before any search.
  const Prediction q = copyMatching({"kSecMatchItemList=@", "kSecMatchSearchList=System.keychain"}, who("daemon"));
  EXPECT_EQ(q.status, errSecParam);
  EXPECT_EQ(q.decidedBy, "F3");
}

TEST(ThePostsQueries, Four_SecKeychainItemCopyFromPersistentReference_Minus25300) {
  const Prediction p = predict(Api::CopyFromPersistentReference, query({"ref=@"}), who("daemon"),
                               worldWith(kUuid, Home::SystemKeychain));
  EXPECT_EQ(p.status, errSecItemNotFound);
  EXPECT_EQ(p.decidedBy, "6.7");
  EXPECT_EQ(p.certainty, Certainty::Code);
  ASSERT_EQ(p.asked.size(), 2u);  // both errors exist and are masked
  EXPECT_EQ(p.asked[0].status, errSecNotAvailable);
  EXPECT_EQ(p.asked[1].status, errSecMissingEntitlement);
  EXPECT_TRUE(p.asked[0].hidden && p.asked[1].hidden);
}

TEST(ThePostsQueries, Five_ReferenceAlone_Minus25291) {
  const Prediction p = copyMatching({"ref=@"}, who("daemon"));
  EXPECT_EQ(p.status, errSecNotAvailable);
  EXPECT_EQ(p.decidedBy, "6.5");
  EXPECT_EQ(p.steps[0].rule, "7");
}

TEST(ThePostsQueries, Six_ManagedVpnSharedAccessGroup_Minus34018) {
  for (const char* flag : {"flag=true", "kSecReturnRef=true"}) {
    const Prediction p = copyMatching({"ref=@", "group=com.apple.managed.vpn.shared", flag}, who("daemon-with-secd"));
    EXPECT_EQ(p.status, errSecMissingEntitlement);
    EXPECT_EQ(p.decidedBy, "S6");
  }
}

TEST(ThePostsQueries, OneProcessGivesAllSixIfItReachesASecdWithoutAUsableDatabase) {
  const Caller& caller = who("daemon-with-secd");
  EXPECT_EQ(copyMatching({"ref=@", "flag=true"}, caller).status, errSecNotAvailable);
  EXPECT_EQ(copyMatching({"ref=@", "search-list=x"}, caller).status, errSecParam);
  EXPECT_EQ(copyMatching({"kSecMatchItemList=@", "search-list=x", "class=identity"}, caller).status,
            errSecItemNotFound);
  EXPECT_EQ(predict(Api::CopyFromPersistentReference, query({"ref=@"}), caller, {}).status, errSecItemNotFound);
  EXPECT_EQ(copyMatching({"ref=@"}, caller).status, errSecNotAvailable);
  EXPECT_EQ(copyMatching({"ref=@", "group=com.apple.managed.vpn.shared"}, caller).status, errSecMissingEntitlement);
}

TEST(ThePostsQueries, Seven_Pkcs12ReferenceWithClassIdentity_Succeeds) {
  const Query q =
      Query{}.with("kSecValuePersistentRef", kSsui).with("kSecClass", std::string("idnt")).with("kSecReturnRef", true);
  const Prediction p = predict(Api::CopyMatching, q, who("daemon"), worldWith(kFile, Home::FileKeychain));
  EXPECT_EQ(p.status, errSecSuccess);
  EXPECT_EQ(p.asked.back().side, Side::FileKeychains);
}

// --- Table 6.8 ---

struct Shape {
  std::string name;
  std::vector<std::string> terms;
  OSStatus user, daemon;
};

TEST(QueryShapes, OfADataProtectionReferenceMatchTheTable) {
  const Shape shapes[] = {
      {"ref20 alone", {"ref=@"}, 0, -25291},
      {"ref20 + flag true", {"ref=@", "flag=true"}, 0, -25291},
      {"ref20 + class identity", {"ref=@", "class=identity"}, -25306, -25291},
      {"ref20 + allowed access group", {"ref=@", "group=" + std::string(kRowGroup)}, -50, -25291},
      {"ref20 + access group not held", {"ref=@", "group=other"}, -34018, -25291},
      {"ref20 + search list", {"ref=@", "search-list=x"}, -50, -50},
      {"item list + class + search list", {"kSecMatchItemList=@", "class=identity", "search-list=x"}, -25300, -25300},
      {"ref20 + flag false", {"ref=@", "flag=false"}, 0, -25300},
      {"ref20 + system keychain always", {"ref=@", "kSecUseSystemKeychainAlways=true"}, -34018, -34018},
  };
  for (const Shape& shape : shapes) {
    EXPECT_EQ(copyMatching(shape.terms, who("app"), Home::UserKeychain).status, shape.user) << shape.name;
    EXPECT_EQ(copyMatching(shape.terms, who("daemon"), Home::SystemKeychain).status, shape.daemon) << shape.name;
  }
}

TEST(QueryShapes, ForeignGroupOfTheRowIsNotFoundNeverNotAvailable) {
  const Prediction p = copyMatching({"ref=@"}, who("app-other-group"), Home::UserKeychain);
  EXPECT_EQ(p.status, errSecItemNotFound);
  EXPECT_EQ(p.decidedBy, "S13");
}

TEST(QueryShapes, TheEntitledDaemonReachesTheSystemKeychainOnlyByTheSpiKeyOrTheOldFunction) {
  const Caller& e = who("entitled-daemon");
  EXPECT_EQ(copyMatching({"ref=@"}, e).status, errSecNotAvailable);  // wrong service
  EXPECT_EQ(copyMatching({"ref=@", "kSecUseSystemKeychainAlways=true"}, e).status, errSecSuccess);
  EXPECT_EQ(
      predict(Api::CopyFromPersistentReference, query({"ref=@"}), e, worldWith(kUuid, Home::SystemKeychain)).status,
      errSecSuccess);
  const Prediction p = copyMatching({"ref=@", "flag=false"}, e);
  EXPECT_EQ(p.status, errSecSuccess);
  EXPECT_EQ(p.certainty, Certainty::Inferred);
}

TEST(QueryShapes, ASandboxDenyingTheLookupGivesNotAvailableFromTheSystemKeychainToo) {
  EXPECT_EQ(copyMatching({"ref=@", "kSecUseSystemKeychainAlways=true"}, who("daemon-sandboxed")).status,
            errSecNotAvailable);
}

TEST(QueryShapes, FileReferences) {
  const World world = worldWith(kFile, Home::FileKeychain);
  const Query alone = Query{}.with("kSecValuePersistentRef", kSsui);
  for (const char* context : {"app", "daemon", "entitled-daemon"}) {
    EXPECT_EQ(predict(Api::CopyMatching, alone, who(context), world).status, 0) << context;
    EXPECT_EQ(predict(Api::CopyFromPersistentReference, alone, who(context), world).status, 0) << context;
  }
  const Query flagged = alone.with("kSecUseDataProtectionKeychain", true);
  EXPECT_EQ(predict(Api::CopyMatching, flagged, who("app"), world).status, errSecParam);
  EXPECT_EQ(predict(Api::CopyMatching, flagged, who("daemon"), world).status, errSecNotAvailable);
  EXPECT_EQ(predict(Api::CopyMatching, alone, who("daemon"), {}).status, errSecItemNotFound);
}

TEST(QueryShapes, AnIdentityWithoutItsKeyIsNotFound) {
  World world = worldWith(kFile, Home::FileKeychain);
  world.fileItems[0].hasPrivateKey = false;
  const Query q = Query{}.with("kSecValuePersistentRef", kSsui).with("kSecClass", std::string("idnt"));
  EXPECT_EQ(predict(Api::CopyMatching, q, who("daemon"), world).status, errSecItemNotFound);
  EXPECT_EQ(predict(Api::CopyMatching, q.without({"kSecClass"}), who("daemon"), world).status, errSecSuccess);
}

TEST(QueryShapes, WithoutAReferenceBothSidesAreMergedAndDataProtectionErrorsAreInvisible) {
  const Prediction daemon = copyMatching({"class=identity"}, who("daemon"));
  EXPECT_EQ(daemon.status, errSecItemNotFound);  // the file side's
  EXPECT_EQ(daemon.asked[0].status, errSecNotAvailable);
  EXPECT_TRUE(daemon.asked[0].hidden);
  EXPECT_EQ(copyMatching({"class=identity"}, who("app"), Home::UserKeychain).status, errSecSuccess);
  const Prediction foreign = copyMatching({"class=identity", "group=other"}, who("app"), Home::UserKeychain);
  EXPECT_EQ(foreign.status, errSecItemNotFound);
  EXPECT_EQ(foreign.asked[0].status, errSecMissingEntitlement);
  EXPECT_TRUE(foreign.asked[0].hidden);
  const Prediction both =
      predict(Api::CopyMatching, query({"class=identity"}), who("daemon"), worldWith(kFile, Home::FileKeychain));
  EXPECT_EQ(both.status, errSecSuccess);
}

// --- Rules 0 to 10 ---

TEST(Categorise, EachRuleDecidesWhereItShould) {
  const Caller& app = who("app");
  EXPECT_EQ(copyMatching({"null"}, app).decidedBy, "0");
  Caller catalyst = app;
  catalyst.platform = Platform::IosOnMac;
  EXPECT_EQ(copyMatching({"class=identity", "flag=false"}, catalyst).asked[0].side, Side::UserKeychain);
  EXPECT_EQ(copyMatching({"class=identity", "kSecAttrNoLegacy=1"}, app).asked.size(), 1u);
  EXPECT_EQ(copyMatching({"class=identity", "kSecAttrSharingGroup=g", "flag=false"}, app).decidedBy, "2a");
  EXPECT_EQ(copyMatching({"class=identity", "kSecUseSystemKeychainAlways=1", "flag=0"}, app).decidedBy, "2b");
  EXPECT_EQ(copyMatching({"class=identity", "kSecUseSystemKeychainAlways=0"}, app).asked.size(), 2u);
  EXPECT_EQ(copyMatching({"class=key", "kSecAttrTokenID=t"}, app).asked.size(), 1u);
  EXPECT_EQ(copyMatching({"class=key", "group=com.apple.token"}, app).asked[0].side, Side::UserKeychain);
  EXPECT_EQ(copyMatching({"class=key", "group=com.apple.token"}, app).asked.size(), 1u);
  EXPECT_EQ(copyMatching({"class=genp", "kSecAttrSynchronizable=true"}, app).asked.size(), 1u);
  EXPECT_EQ(copyMatching({"class=genp", "kSecAttrSynchronizable=any"}, app).asked.size(), 2u);
  EXPECT_EQ(copyMatching({"kSecAttrLabel=x"}, app).decidedBy, "F3");  // 9: file only, where a class is missing
  EXPECT_EQ(copyMatching({"class=key", "kSecAttrTokenID=t", "kSecUseKeychain=k"}, app).decidedBy, "10");
}

TEST(Categorise, ObjectsRestrictAsTheyAreBacked) {
  const Caller& app = who("app");
  EXPECT_EQ(copyMatching({"kSecValueRef=cdsa-key"}, app).asked[0].side, Side::FileKeychains);
  EXPECT_EQ(copyMatching({"kSecValueRef=key"}, app).asked[0].side, Side::UserKeychain);
  EXPECT_EQ(copyMatching({"kSecValueRef=file-certificate"}, app).asked[0].side, Side::FileKeychains);
  EXPECT_EQ(copyMatching({"kSecValueRef=item"}, app).asked[0].side, Side::FileKeychains);
  EXPECT_EQ(copyMatching({"kSecValueRef=identity"}, app).asked.size(), 2u);
}

TEST(Truthy, IsTrueNonZeroOrThePlainDecimalOfANonZeroInteger) {
  for (const Value& value : {Value(true), Value(int64_t{7}), Value(std::string("1")), Value(std::string("-12"))})
    EXPECT_TRUE(isTruthy(value));
  for (const Value& value : {Value(false), Value(int64_t{0}), Value(std::string("0")), Value(std::string("yes")),
                             Value(std::string("01")), Value(std::string("syna")), Value(Bytes{1})})
    EXPECT_FALSE(isTruthy(value));
}

// --- F1 to F9 ---

TEST(FileSide, RefusesWhatItCannotAnswer) {
  const Caller& d = who("daemon");
  EXPECT_EQ(copyMatching({"class=identity", "flag=false", "no-result"}, d).decidedBy, "F1");
  EXPECT_EQ(copyMatching({"class=identity", "flag=false", "kSecReturnRef=maybe"}, d).decidedBy, "F2");
  EXPECT_EQ(copyMatching({"class=certificate", "flag=false", "kSecMatchIssuers=x"}, d).decidedBy, "F4");
  EXPECT_EQ(copyMatching({"class=genp", "flag=false", "kSecReturnData=true", "kSecMatchLimit=kSecMatchLimitAll"}, d)
                .decidedBy,
            "F5");
}

TEST(FileSide, IgnoresTheAccessGroup) {
  const Query q = Query{}.with("kSecValuePersistentRef", kSsui).with("kSecAttrAccessGroup", std::string("other"));
  EXPECT_EQ(predict(Api::CopyMatching, q, who("daemon"), worldWith(kFile, Home::FileKeychain)).status, errSecSuccess);
}

TEST(FileSide, FindsAnItemListEntryThatNamesAFileItem) {
  const Query q = Query{}
                      .with("kSecMatchItemList", std::vector<Bytes>{kRef20, kSsui})
                      .with("kSecClass", std::string("idnt"))
                      .with("kSecMatchSearchList", std::string("System.keychain"));
  EXPECT_EQ(predict(Api::CopyMatching, q, who("daemon"), worldWith(kFile, Home::FileKeychain)).status, errSecSuccess);
}

// --- S0 to S15 ---

TEST(DataProtectionSide, ChecksComeInOrder) {
  Caller caller = who("app");
  const auto rule = [&](const std::vector<std::string>& terms) {
    return copyMatching(terms, caller, Home::UserKeychain).decidedBy;
  };
  EXPECT_EQ(rule({"class=genp", "flag=1", "kSecAttrAppClipItem=1"}), "S1");
  EXPECT_EQ(rule({"class=genp", "kSecAttrSharingGroup=g", "kSecAttrSynchronizable=1"}), "S1");
  EXPECT_EQ(rule({"flag=1"}), "S5");
  EXPECT_EQ(rule({"flag=1", "class=nonsense"}), "S5");
  EXPECT_EQ(rule({"flag=1", "class=genp", "foo=1"}), "S5");
  EXPECT_EQ(rule({"flag=1", "class=genp", "kSecUseSystemKeychain=1"}), "S5");
  EXPECT_EQ(rule({"flag=1", "class=nonsense", "group=other"}), "S5");  // parse errors beat the group
  EXPECT_EQ(rule({"flag=1", "class=genp", "kSecMatchPolicy=p"}), "S10");
  EXPECT_EQ(rule({"flag=1", "class=genp", "kSecMatchHostOrSubdomainOfHost=h"}), "S10");
  EXPECT_EQ(rule({"flag=1", "class=genp", "kSecUseItemList=x"}), "S10");
  EXPECT_EQ(rule({"flag=1", "class=genp", "kSecReturnRef=1", "no-result"}), "S10");
  EXPECT_EQ(rule({"class=genp", "kSecAttrSharingGroup=g"}), "S10");
  EXPECT_EQ(rule({"ref=@", "kSecAttrLabel=x"}), "S12");
  EXPECT_EQ(rule({"ref=@", "kSecAttrSynchronizable=any"}), "S15");  // taken away in translation
  EXPECT_EQ(rule({"ref=@"}), "S15");
  caller.keychainDenied = true;
  EXPECT_EQ(rule({"ref=@"}), "S0");
  EXPECT_EQ(copyMatching({"flag=1", "class=nonsense"}, who("app")).status, errSecNoSuchClass);
}

TEST(DataProtectionSide, UpdateAndDeleteCheckTheGroupBeforeTheQuery) {
  for (const Api api : {Api::Update, Api::Delete}) {
    const Prediction p = predict(api, query({"flag=1", "class=nonsense", "group=other"}), who("app"), {});
    EXPECT_EQ(p.status, errSecMissingEntitlement);
    EXPECT_EQ(p.decidedBy, "S6");
  }
}

TEST(DataProtectionSide, TheTokenGroupCannotWrite) {
  EXPECT_EQ(predict(Api::Add, query({"flag=1", "class=key"}), who("app-no-groups"), {}).status,
            errSecMissingEntitlement);
  EXPECT_EQ(predict(Api::CopyMatching, query({"flag=1", "class=key"}), who("app-no-groups"), {}).status,
            errSecItemNotFound);
  EXPECT_EQ(predict(Api::CopyMatching, query({"flag=1", "class=key"}), who("invalid-signature"), {}).status,
            errSecMissingEntitlement);
}

TEST(DataProtectionSide, EachServiceStateHasItsStatus) {
  Caller caller = who("app");
  const auto status = [&](ServiceState state, const std::vector<std::string>& terms, Home home = Home::UserKeychain) {
    caller.userService = state;
    return copyMatching(terms, caller, home).status;
  };
  const std::vector<std::string> foreign = {"ref=@", "group=other"};
  EXPECT_EQ(status(ServiceState::Unreachable, foreign), errSecNotAvailable);
  EXPECT_EQ(status(ServiceState::DatabaseUnusable, foreign), errSecMissingEntitlement);
  EXPECT_EQ(status(ServiceState::DatabaseUnusable, {"ref=@"}), errSecNotAvailable);
  EXPECT_EQ(status(ServiceState::Well, {"ref=@"}, Home::Nowhere), errSecItemNotFound);
  EXPECT_EQ(status(ServiceState::ClassKeyMissing, {"ref=@"}), errSecNotAvailable);
  EXPECT_EQ(status(ServiceState::ClassKeyMissing, {"ref=@"}, Home::Nowhere), errSecItemNotFound);
  EXPECT_EQ(status(ServiceState::KeybagLocked, {"ref=@"}), errSecInteractionNotAllowed);
  EXPECT_EQ(status(ServiceState::Well, {"ref=@"}), errSecSuccess);
}

TEST(DataProtectionSide, ATokenReferenceMayCarryItsTokenIdAndNothingElse) {
  const Bytes token = encodeReference(TokenReference{ItemClass::Certificate, "com.apple.setoken", {1}}).value();
  const World world = worldWith(decodeReference(token).value().reference, Home::UserKeychain);
  const Query q =
      Query{}.with("kSecValuePersistentRef", token).with("kSecAttrTokenID", std::string("com.apple.setoken"));
  EXPECT_EQ(predict(Api::CopyMatching, q, who("app"), world).status, errSecSuccess);
  EXPECT_EQ(predict(Api::CopyMatching, q.with("kSecAttrLabel", std::string("x")), who("app"), world).status,
            errSecParam);
}

TEST(DataProtectionSide, AnIdentityReferenceNeedsTheKey) {
  const Bytes idnt = mintDataProtectionReference(ItemClass::Identity, std::get<UuidReference>(kUuid).uuid);
  World world = worldWith(kUuid, Home::UserKeychain);
  const Query q = Query{}.with("kSecValuePersistentRef", idnt).with("kSecClass", std::string("idnt"));
  EXPECT_EQ(predict(Api::CopyMatching, q, who("app"), world).status, errSecSuccess);
  world.userRows[0].hasPrivateKey = false;
  EXPECT_EQ(predict(Api::CopyMatching, q, who("app"), world).status, errSecItemNotFound);
}

TEST(DataProtectionSide, OnIosWhoeverHoldsTheReferenceMayUseTheItemAndOnMacosNot) {
  const Prediction ios = copyMatching({"ref=@"}, who("ios-extension"), Home::UserKeychain);
  EXPECT_EQ(ios.status, errSecSuccess);
  EXPECT_TRUE(std::ranges::any_of(ios.steps, [](const Step& step) { return step.rule == "S3"; }));
  Caller mac = who("ios-extension");
  mac.platform = Platform::Mac;
  EXPECT_EQ(copyMatching({"ref=@"}, mac, Home::UserKeychain).status, errSecItemNotFound);
}

// --- Other calls ---

TEST(Add, RunsOneSideOnlyAndPrefersFile) {
  EXPECT_EQ(predict(Api::Add, query({"class=genp"}), who("daemon"), {}).asked[0].side, Side::FileKeychains);
  const Prediction p = predict(Api::Add, query({"class=genp", "flag=1"}), who("daemon"), {});
  EXPECT_EQ(p.asked.size(), 1u);
  EXPECT_EQ(p.status, errSecNotAvailable);
}

TEST(CreatePersistentReference, TriesDataProtectionThenSystemThenFile) {
  const Query dp = Query{}.with("kSecValueRef", Object{ObjectKind::DataProtectionItem, kRef20});
  EXPECT_EQ(predict(Api::CreatePersistentReference, dp, who("app"), worldWith(kUuid, Home::UserKeychain)).status, 0);
  EXPECT_EQ(predict(Api::CreatePersistentReference, dp, who("daemon"), worldWith(kUuid, Home::UserKeychain)).status,
            errSecItemNotFound);
  const Query file = Query{}.with("kSecValueRef", Object{ObjectKind::FileCertificate, {}});
  EXPECT_EQ(predict(Api::CreatePersistentReference, file, who("daemon"), {}).status, 0);
  EXPECT_EQ(predict(Api::CreatePersistentReference, Query{}, who("daemon"), {}).status, errSecParam);
}

TEST(CopyFromPersistentReference, OfDamagedBytesGivesWhatApplesParserGives) {
  const Query noise = Query{}.with("kSecValuePersistentRef", Bytes(40, 0));
  EXPECT_EQ(predict(Api::CopyFromPersistentReference, noise, who("daemon"), {}).status, errSecItemNotFound);
  EXPECT_EQ(predict(Api::CopyFromPersistentReference, Query{}, who("daemon"), {}).status, errSecParam);
}

// --- Callers ---

TEST(AccessGroups, FollowTheOrderOfTheEntitlements) {
  Entitlements e{{"T.shared"}, {"T.associated"}, "T.app", {"group.app"}, true};
  EXPECT_EQ(accessGroupsOf(e),
            (std::vector<std::string>{"T.shared", "T.associated", "T.app", "group.app", "com.apple.token"}));
  e.keychainAccessGroups = {"com.apple.token", "T.shared"};
  EXPECT_EQ(accessGroupsOf(e).back(), "com.apple.token");
  EXPECT_EQ(accessGroupsOf(e).front(), "T.shared");
}

TEST(AccessGroups, OfAnInvalidlySignedAppAreEmptySoThatItSeesMissingEntitlement) {
  Entitlements e{{}, {}, "T.app", {}, false};
  EXPECT_TRUE(accessGroupsOf(e).empty());
  e.applicationIdentifier.clear();
  EXPECT_EQ(accessGroupsOf(e), (std::vector<std::string>{"com.apple.token"}));
}

// --- Causes of -25291 ---

std::string possible(const Observations& observations) {
  std::string out;
  const std::vector<Verdict> verdicts = weigh(observations);
  for (size_t i = 0; i < verdicts.size(); ++i)
    if (verdicts[i].possible) out += causesOfNotAvailable()[i].letter;
  return out;
}

TEST(CausesOfNotAvailable, AreSeparatedByObservations) {
  EXPECT_EQ(possible({}), "abcde");
  EXPECT_EQ(possible({.foreignGroupGaveMissingEntitlement = true}), "bce");  // the post, if it was one process
  EXPECT_EQ(possible({.foreignGroupGaveMissingEntitlement = false, .hasDenyEntitlement = false}), "a");
  EXPECT_EQ(possible({.queryMixedIdentityWithCertReference = true, .hasDenyEntitlement = false}), "a");
  EXPECT_EQ(possible({.unknownReferenceGaveNotFound = true}), "ce");
}

// --- Terms ---

TEST(ParseQuery, RefusesTermsWithTheirName) {
  EXPECT_EQ(parseQuery({"nonsense"}, {}).error().message, "query term `nonsense` is not key=value");
  EXPECT_EQ(parseQuery({"ref=@"}, {}).error().reason, Reason::BadInput);
  EXPECT_EQ(parseQuery({"ref=zz!"}, {}).error().reason, Reason::BadInput);
  EXPECT_EQ(parseQuery({"kSecValueRef=thing"}, {}).error().reason, Reason::BadInput);
  EXPECT_EQ(parseApi("SecItemFrobnicate"), std::nullopt);
  EXPECT_EQ(parseApi("add"), Api::Add);
}

}  // namespace
}  // namespace wayleave::keychain::dispatch
