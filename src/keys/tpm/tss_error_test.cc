#include "keys/tpm/tss_error.h"

#include <gtest/gtest.h>
#include <tss2/tss2_tpm2_types.h>

#include "keys/tpm/transport.h"

namespace wayleave::keys::tpm {
namespace {

TEST(TssError, EveryCodeOfTheFieldHasItsReasonAndReaction) {
  struct Case {
    TSS2_RC code;
    Reason reason;
    Reaction reaction;
  };
  const Case cases[] = {
      {0x902, Reason::Busy, Reaction::FreeSlots},
      {0x903, Reason::Busy, Reaction::FreeSlots},
      {0x904, Reason::Busy, Reaction::FreeSlots},
      {0x921, Reason::KeyLockout, Reaction::Report},
      {0x98e, Reason::IdentityUnavailable, Reaction::Report},  // AUTH_FAIL, session 1: a second try would count
      {0x9a2, Reason::IdentityUnavailable, Reaction::Report},  // BAD_AUTH, session 1
      {0x18b, Reason::IdentityLost, Reaction::Report},         // handle 1
      {0x1df, Reason::IdentityLost, Reaction::Report},         // integrity, parameter 1
      {0x3df, Reason::IdentityLost, Reaction::Report},         // the same, parameter 3
      {0x2d2, Reason::Unsupported, Reaction::Report},          // scheme, parameter 2
      {0x2c4, Reason::KeyMismatch, Reaction::Report},          // value: a credential for another EK
      {0x2e6, Reason::Unsupported, Reaction::Report},          // curve
      {0x922, Reason::Busy, Reaction::RetryLater},
      {0x90a, Reason::Busy, Reaction::RetryLater},
      {0x908, Reason::Busy, Reaction::RetryLater},
      {0x910, Reason::IdentityUnavailable, Reaction::ReloadObjects},
      {0x918, Reason::IdentityUnavailable, Reaction::ReloadObjects},
      {0x100, Reason::Unavailable, Reaction::StartTpm},
      {0x101, Reason::IdentityUnavailable, Reaction::Report},
      {0x155, Reason::IdentityLost, Reaction::Report},
      {TSS2_TCTI_RC_IO_ERROR, Reason::Unavailable, Reaction::Reopen},
      {TSS2_TCTI_RC_NO_CONNECTION, Reason::Unavailable, Reaction::Reopen},
      {TSS2_TCTI_RC_NOT_PERMITTED, Reason::KeyPermission, Reaction::Report},
      {TSS2_TCTI_RC_MALFORMED_RESPONSE, Reason::Unavailable, Reaction::Reopen},
      {TSS2_ESYS_RC_BAD_SEQUENCE, Reason::Unavailable, Reaction::Reopen},
      {TSS2_ESYS_RC_BAD_REFERENCE, Reason::Internal, Reaction::Report},
      {TSS2_RESMGR_TPM_RC_LAYER | 0x902, Reason::Busy, Reaction::FreeSlots},
      {0x1234567, Reason::Internal, Reaction::Report},         // unknown layer
      {0xfff, Reason::IdentityUnavailable, Reaction::Report},  // a code of nobody
  };
  for (const Case& expected : cases) {
    const RcMeaning means = classify(expected.code);
    EXPECT_EQ(text(means.reason), text(expected.reason)) << std::hex << expected.code;
    EXPECT_EQ(means.reaction, expected.reaction) << std::hex << expected.code;
  }
}

TEST(TssError, WhatAPersonMustActOnHasAHint) {
  for (const TSS2_RC code : {0x902u, 0x921u, 0x98eu, 0x18bu, 0x1dfu, 0x2e6u, unsigned{TSS2_TCTI_RC_IO_ERROR}})
    EXPECT_FALSE(classify(code).hint.empty()) << std::hex << code;
}

TEST(TssError, MessageNamesTheAttemptTheMeaningAndTheCode) {
  const TpmFailure failure = tssFailure(0x921, "sign");
  EXPECT_EQ(failure.error.reason, Reason::KeyLockout);
  EXPECT_TRUE(failure.error.message.starts_with("sign: the TPM is in dictionary-attack lockout (0x921, "))
      << failure.error.message;
}

TEST(Transport, OpenErrorsTellAbsentDeniedAndTakenApart) {
  EXPECT_EQ(openFailure(EACCES, "/dev/tpmrm0").reason, Reason::KeyPermission);
  EXPECT_NE(openFailure(EACCES, "/dev/tpmrm0").hint.find("tss"), std::string::npos);
  EXPECT_EQ(openFailure(EBUSY, "/dev/tpm0").reason, Reason::Busy);
  EXPECT_NE(openFailure(EBUSY, "/dev/tpm0").hint.find("/dev/tpmrm0"), std::string::npos);
  EXPECT_EQ(openFailure(ENOENT, "/dev/tpmrm0").reason, Reason::Unavailable);
  EXPECT_EQ(openFailure(ECONNREFUSED, "/run/s").reason, Reason::Unavailable);
}

TEST(Transport, RefusesATctiNobodyKnows) {
  const auto opened = openTransport({.tcti = "carrier-pigeon:coop=3"});
  ASSERT_FALSE(opened.has_value());
  EXPECT_FALSE(opened.error().message.empty());
  EXPECT_EQ(openTransport({.tcti = "swtpm:path="}).error().reason, Reason::Unsupported);
}

}  // namespace
}  // namespace wayleave::keys::tpm
