// What the environment asks of the emulator. Read at every use, so that a test may change it.
//
// FORETUNE_EMULATOR_EAGER=1       work runs when it is put into a stream, not when somebody waits for it
// FORETUNE_EMULATOR_MEMORY=BYTES  of the device; without, 8 GiB
// FORETUNE_EMULATOR_REPORT=PATH   gets a JSON object of what is live and what was done, when the process ends
// FORETUNE_EMULATOR_FAIL=WHAT:N,… what the device is, and what goes wrong:
//   alloc:N       the Nth allocation of device memory finds none
//   launch:N      launches from the Nth on meet an illegal address
//   lost:N        the device falls off the bus at the Nth launch, for good
//   init:CODE     cuInit returns CODE
//   context:CODE  retaining the device's context returns CODE
//   devices:0     there is none
//   capability:N  compute capability, 75 for 7.5; without, 80
//   driver:N      the driver's version, 1000·major + 10·minor, which also limits PTX; without, 12000
#pragma once

#include <cstdint>

namespace emulator {
// The number that FORETUNE_EMULATOR_FAIL has for `what`, or `otherwise`.
long setting(const char *what, long otherwise);
bool eager();
uint64_t memory_bytes();
const char *report_path();
} // namespace emulator
