// Whether the ranks of a host take turns at a folder (record_turns.h).
#pragma once

namespace strata {

struct TurnOptions {
  enum class When { never, automatic, always } when = When::never;  // automatic: large records on drives that rotate
  int ranks = 1;                                                    // of this host that use the folders; one alone takes none
};

}  // namespace strata
