#include "broker/memo.h"

#include <gtest/gtest.h>

namespace wayleave::broker {
namespace {

TEST(Memo, DecodesOnceAndForgetsWhenItIsFull) {
  Memo<size_t> memo(2);
  int decoded = 0;
  const auto decode = [&](ByteView bytes) -> Result<size_t> {
    ++decoded;
    return bytes.size();
  };
  EXPECT_EQ(1u, **memo.of({1}, decode));
  EXPECT_EQ(1u, **memo.of({1}, decode));
  EXPECT_EQ(1, decoded);
  EXPECT_EQ(2u, **memo.of({1, 2}, decode)) << "other bytes are another value";
  EXPECT_EQ(3u, **memo.of({1, 2, 3}, decode));
  EXPECT_EQ(1u, **memo.of({1}, decode));
  EXPECT_EQ(4, decoded);
}

TEST(Memo, KeepsNoErrors) {
  Memo<int> memo;
  EXPECT_EQ(Reason::BadInput, memo.of({1}, [](ByteView) { return fail(Reason::BadInput, "no"); }).error().reason);
  EXPECT_EQ(7, **memo.of({1}, [](ByteView) -> Result<int> { return 7; }));
}

}  // namespace
}  // namespace wayleave::broker
