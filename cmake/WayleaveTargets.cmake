# How every folder under src/ becomes a library, its unit tests, its fuzzers and its benchmarks.
#
#   wayleave_library(NAME [DEPENDS lib...] [LINK system...])
#
# A library `wayleave_NAME` (alias wayleave::NAME) holds every *.cc of the folder and of its subfolders that is not a
# *_test.cc, *_fuzz.cc, *_bench.cc or main.cc. Unit tests become one program per library, each *_fuzz.cc a fuzzer, each
# *_bench.cc a benchmark. A library links only what stands below it (docs/architecture.md, "Layers"): that one-way
# order is what the DEPENDS lists encode.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED)

# -fPIC everywhere: the PKCS#11 module shares the libraries, and one code model lets every target share the headers.
add_compile_options(-fPIC -Wall -Wextra -Wpedantic -Werror -Wswitch-enum -Wshadow -Wnon-virtual-dtor -Wold-style-cast
                    -Wno-missing-field-initializers)
# _GLIBCXX_ASSERTIONS keeps the bounds checks of the standard containers in release builds: this code parses hostile
# bytes as a privileged daemon.
add_compile_definitions(_GLIBCXX_ASSERTIONS BOOST_ASIO_NO_DEPRECATED BOOST_ASIO_HAS_CO_AWAIT SPDLOG_FMT_EXTERNAL
                        SPDLOG_COMPILED_LIB OPENSSL_NO_DEPRECATED OPENSSL_API_COMPAT=30000)
add_compile_definitions(WAYLEAVE_VERSION="${PROJECT_VERSION}")
include_directories(${CMAKE_SOURCE_DIR}/src)
# Third-party headers are system headers: our warnings are not theirs.
include_directories(SYSTEM /usr/include)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 reports these inside the standard library and Boost when it inlines across them; clang checks the same code.
  add_compile_options(-Wno-maybe-uninitialized -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread
                      -Wno-dangling-pointer -Wno-restrict -Wno-free-nonheap-object)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  # libstdc++ 12 uses its own deprecated get_temporary_buffer in stable_sort; OPENSSL_NO_DEPRECATED hides OpenSSL's.
  add_compile_options(-Wno-deprecated-declarations)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  add_compile_options(-fstack-protector-strong -D_FORTIFY_SOURCE=2)
  add_link_options(-Wl,-z,relro,-z,now)
endif()

if(WAYLEAVE_UNITY AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # Of classes private to a source, which is now included by another.
  add_compile_options(-Wno-subobject-linkage)
elseif(WAYLEAVE_UNITY)
  # clang counts a name of another source's anonymous namespace as shadowed; g++ goes on checking.
  add_compile_options(-Wno-shadow)
endif()

if(WAYLEAVE_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g1)
  add_link_options(-fsanitize=address,undefined)
elseif(WAYLEAVE_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer -O1 -g1)
  add_link_options(-fsanitize=thread)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options(-Wno-tsan)
  endif()
endif()

if(WAYLEAVE_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)  # the libraries, too: a fuzzer steers by the branches it sees
endif()

find_program(WAYLEAVE_MOLD mold)
if(WAYLEAVE_MOLD AND NOT WAYLEAVE_SANITIZE STREQUAL "thread")
  add_link_options(-fuse-ld=mold)
endif()
find_program(WAYLEAVE_CCACHE ccache)
if(WAYLEAVE_CCACHE AND NOT WAYLEAVE_PCH)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${WAYLEAVE_CCACHE})
endif()

# Two thirds of a clean build is parsing Boost.Asio and nlohmann-json again and again; two precompiled headers cut that.
if(WAYLEAVE_PCH)
  add_library(wayleave_pch OBJECT ${CMAKE_SOURCE_DIR}/cmake/pch.cc)
  target_precompile_headers(wayleave_pch PRIVATE <algorithm> <array> <chrono> <cstdint> <expected> <functional> <map>
                            <memory> <mutex> <optional> <span> <string> <string_view> <thread> <unordered_map> <utility>
                            <variant> <vector> <fmt/format.h> <nlohmann/json.hpp>)
  add_library(wayleave_pch_net OBJECT ${CMAKE_SOURCE_DIR}/cmake/pch.cc)
  target_precompile_headers(wayleave_pch_net PRIVATE <algorithm> <array> <chrono> <cstdint> <expected> <functional>
                            <map> <memory> <mutex> <optional> <span> <string> <string_view> <thread> <unordered_map>
                            <utility> <variant> <vector> <fmt/format.h> <nlohmann/json.hpp> <boost/asio.hpp>)
  if(WAYLEAVE_TESTS)
    # Test bodies are long functions full of macros: optimising them under UBSan takes three times as long as the code under test.
    if(NOT WAYLEAVE_SANITIZE STREQUAL "none")
      set(WAYLEAVE_TEST_OPTIONS -O0)
    endif()
    add_library(wayleave_pch_test OBJECT EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/cmake/pch.cc)
    target_precompile_headers(wayleave_pch_test PRIVATE <algorithm> <array> <chrono> <cstdint> <expected> <functional>
                              <map> <memory> <optional> <span> <string> <string_view> <thread> <utility> <variant>
                              <vector> <fmt/format.h> <nlohmann/json.hpp> <gtest/gtest.h>)
    target_compile_options(wayleave_pch_test PRIVATE ${WAYLEAVE_TEST_OPTIONS})
  endif()
endif()

# A build from scratch by scripts/build.sh compiles eight sources of a target at once: parsing and instantiating the same
# templates is most of the work. Names in anonymous namespaces must then be unique within a target, or their files be named in
# wayleave_compile_alone(). Without it (the default, scripts/tidy.sh) every source shows that it includes what it uses.
function(wayleave_unity target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${WAYLEAVE_UNITY} UNITY_BUILD_BATCH_SIZE 8)
endfunction()
function(wayleave_compile_alone)
  set_source_files_properties(${ARGN} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()

function(wayleave_use_pch target which)
  if(WAYLEAVE_PCH)
    target_precompile_headers(${target} REUSE_FROM ${which})
  endif()
endfunction()

# Folders whose sources are mostly event-loop code take the precompiled header with Boost.Asio (option NET).
function(wayleave_library name)
  cmake_parse_arguments(ARG "NET" "" "DEPENDS;LINK" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  set(tests ${sources})
  set(fuzzers ${sources})
  set(benches ${sources})
  list(FILTER tests INCLUDE REGEX "_test(_support)?\\.cc$")
  list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cc$")
  list(FILTER benches INCLUDE REGEX "_bench\\.cc$")
  list(FILTER sources EXCLUDE REGEX "(_test|_test_support|_fuzz|_bench|/main)\\.cc$")

  if(sources)
    add_library(wayleave_${name} STATIC ${sources})
    wayleave_unity(wayleave_${name})
    set(scope PUBLIC)
    if(ARG_NET)
      wayleave_use_pch(wayleave_${name} wayleave_pch_net)
    else()
      wayleave_use_pch(wayleave_${name} wayleave_pch)
    endif()
  else()
    add_library(wayleave_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(wayleave::${name} ALIAS wayleave_${name})
  foreach(dep ${ARG_DEPENDS})
    target_link_libraries(wayleave_${name} ${scope} wayleave::${dep})
  endforeach()
  target_link_libraries(wayleave_${name} ${scope} ${ARG_LINK} fmt spdlog Threads::Threads)

  if(WAYLEAVE_TESTS AND tests)
    add_executable(wayleave_${name}_test ${tests})
    wayleave_unity(wayleave_${name}_test)
    target_link_libraries(wayleave_${name}_test PRIVATE wayleave::${name} gtest gmock gtest_main)
    target_compile_definitions(wayleave_${name}_test PRIVATE WAYLEAVE_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    target_compile_options(wayleave_${name}_test PRIVATE ${WAYLEAVE_TEST_OPTIONS})
    wayleave_use_pch(wayleave_${name}_test wayleave_pch_test)
    if(CMAKE_BUILD_TYPE STREQUAL "Release")
      # A release build is for its programs; tests are built by name (scripts/check.sh).
      set_target_properties(wayleave_${name}_test PROPERTIES EXCLUDE_FROM_ALL ON)
    endif()
    add_test(NAME ${name} COMMAND wayleave_${name}_test)
    set_tests_properties(${name} PROPERTIES TIMEOUT 300)
  endif()
  if(WAYLEAVE_FUZZ)
    foreach(file ${fuzzers})
      get_filename_component(fuzzer ${file} NAME_WE)
      add_executable(${fuzzer} ${file})
      target_link_libraries(${fuzzer} PRIVATE wayleave::${name})
      target_link_options(${fuzzer} PRIVATE -fsanitize=fuzzer)
      set_property(GLOBAL APPEND PROPERTY WAYLEAVE_FUZZERS ${fuzzer})
    endforeach()
  endif()
  if(WAYLEAVE_BENCH)
    foreach(file ${benches})
      get_filename_component(bench ${file} NAME_WE)
      add_executable(${bench} EXCLUDE_FROM_ALL ${file})
      target_link_libraries(${bench} PRIVATE wayleave::${name} benchmark benchmark_main)
    endforeach()
  endif()
endfunction()

#   wayleave_program(NAME OUTPUT program DEPENDS lib...)  — one composition root: programs/NAME/*.cc
function(wayleave_program name)
  cmake_parse_arguments(ARG "" "OUTPUT" "DEPENDS;LINK" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cc)
  list(FILTER sources EXCLUDE REGEX "(_test|_fuzz|_bench)\\.cc$")
  if(NOT sources)
    return()
  endif()
  add_executable(${ARG_OUTPUT} ${sources})
  wayleave_unity(${ARG_OUTPUT})
  wayleave_use_pch(${ARG_OUTPUT} wayleave_pch)
  foreach(dep ${ARG_DEPENDS})
    target_link_libraries(${ARG_OUTPUT} PRIVATE wayleave::${dep})
  endforeach()
  target_link_libraries(${ARG_OUTPUT} PRIVATE ${ARG_LINK})
endfunction()
