#include "optim/state_codes_map.h"

namespace strata {

const StateCodes& signed_codes() {
  static constexpr StateCodes kCodes = make_state_codes(true);
  return kCodes;
}
const StateCodes& unsigned_codes() {
  static constexpr StateCodes kCodes = make_state_codes(false);
  return kCodes;
}

}  // namespace strata
