// Our declarations of cuFile against NVIDIA's header, where one is found (STRATA_CUFILE_INCLUDE_DIR).
#include "runtime/gpu/cufile_api.h"

#include <gtest/gtest.h>

#ifdef STRATA_HAS_CUFILE_HEADER
#include <cufile.h>

#include <type_traits>
#endif

namespace strata {
namespace {

#ifdef STRATA_HAS_CUFILE_HEADER

// The same number of arguments of the same kinds, passed alike: pointers are pointers, and integers have one size and sign.
template <class T>
constexpr bool is_enum_like_int() {
  if constexpr (std::is_enum_v<T>) {
    return sizeof(T) == sizeof(int);
  } else {
    return false;
  }
}
template <class Ours, class Theirs>
inline constexpr bool kPassedAlike = (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) || std::is_same_v<Ours, Theirs> ||
                                     (std::is_same_v<Ours, cufile::Error> && std::is_same_v<Theirs, CUfileError_t>) ||
                                     (std::is_same_v<Ours, int> && is_enum_like_int<Theirs>());
template <class Ours, class Theirs>
struct CalledAlike : std::false_type {};
template <class R, class... A, class S, class... B>
struct CalledAlike<R (*)(A...), S (*)(B...)>
    : std::bool_constant<sizeof...(A) == sizeof...(B) && kPassedAlike<R, S> && (kPassedAlike<A, B> && ...)> {};

using F = cufile::Functions;
static_assert(CalledAlike<decltype(F::driver_open), decltype(&cuFileDriverOpen)>::value);
static_assert(CalledAlike<decltype(F::driver_close), decltype(&cuFileDriverClose)>::value);  // a macro: _v2
static_assert(CalledAlike<decltype(F::driver_properties), decltype(&cuFileDriverGetProperties)>::value);
static_assert(CalledAlike<decltype(F::handle_register), decltype(&cuFileHandleRegister)>::value);
static_assert(CalledAlike<decltype(F::handle_deregister), decltype(&cuFileHandleDeregister)>::value);
static_assert(CalledAlike<decltype(F::buffer_register), decltype(&cuFileBufRegister)>::value);
static_assert(CalledAlike<decltype(F::buffer_deregister), decltype(&cuFileBufDeregister)>::value);
static_assert(CalledAlike<decltype(F::read), decltype(&cuFileRead)>::value);
static_assert(CalledAlike<decltype(F::write), decltype(&cuFileWrite)>::value);

static_assert(sizeof(cufile::Error) == sizeof(CUfileError_t) && alignof(cufile::Error) == alignof(CUfileError_t));
static_assert(offsetof(cufile::Error, code) == offsetof(CUfileError_t, err));
static_assert(offsetof(cufile::Error, cuda_code) == offsetof(CUfileError_t, cu_err));

static_assert(sizeof(cufile::Description) == sizeof(CUfileDescr_t));
static_assert(offsetof(cufile::Description, type) == offsetof(CUfileDescr_t, type));
static_assert(offsetof(cufile::Description, file) == offsetof(CUfileDescr_t, handle));
static_assert(offsetof(cufile::Description, operations) == offsetof(CUfileDescr_t, fs_ops));
static_assert(cufile::kTypeOfDescriptor == CU_FILE_HANDLE_TYPE_OPAQUE_FD);

using Ours = cufile::Properties;
using Theirs = CUfileDrvProps_t;
static_assert(sizeof(Ours) == sizeof(Theirs));
static_assert(offsetof(Ours, driver.status_flags) == offsetof(Theirs, nvfs.dstatusflags));
static_assert(offsetof(Ours, driver.control_flags) == offsetof(Theirs, nvfs.dcontrolflags));
static_assert(offsetof(Ours, feature_flags) == offsetof(Theirs, fflags));
static_assert(offsetof(Ours, max_batch_milliseconds) == offsetof(Theirs, max_batch_io_timeout_msecs));
static_assert(cufile::kSupportsNvme == 1u << CU_FILE_NVME_SUPPORTED);
static_assert(cufile::kAllowsCompatibility == 1u << CU_FILE_ALLOW_COMPAT_MODE);
static_assert(cufile::kSupportsPeerToPeer == 1u << CU_FILE_P2P_SUPPORTED);

static_assert(cufile::kSuccess == CU_FILE_SUCCESS && cufile::kFirstCode == CUFILEOP_BASE_ERR);
static_assert(cufile::kCudaDriverError == CU_FILE_CUDA_DRIVER_ERROR);
static_assert(cufile::kDriverAlreadyOpen == CU_FILE_DRIVER_ALREADY_OPEN);

TEST(CuFileApi, NamesEveryCodeAsTheHeaderDoes) {
#define CUFILE_OP(code, name, text) EXPECT_STREQ(cufile::name_of(code), #name);
  CUFILEOP_STATUS_ENTRIES
#undef CUFILE_OP
}

#else

TEST(CuFileApi, NamesEveryCodeAsTheHeaderDoes) {
  GTEST_SKIP() << "no cufile.h in the toolkit; STRATA_CUFILE_INCLUDE_DIR can name its folder";
}

#endif

TEST(CuFileApi, KnowsThatItDoesNotKnowACode) {
  EXPECT_STREQ(cufile::name_of(5008), "CU_FILE_IO_NOT_SUPPORTED");
  EXPECT_STREQ(cufile::name_of(5999), "an error that Strata does not know");
}

}  // namespace
}  // namespace strata
