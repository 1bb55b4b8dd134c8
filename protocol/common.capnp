@0xb6a1e0c5d0f3a7e1;
# Words used by every interface. Cap'n Proto rules: add at the end, never reuse a number.
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("baton::wire");

struct Address {
  # Where a rank's control plane listens.
  host @0 :Text;
  port @1 :UInt16;
}
