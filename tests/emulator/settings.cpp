// See settings.h.
#include "settings.h"

#include <cstdlib>
#include <sstream>
#include <string>

namespace emulator {
long setting(const char *what, long otherwise) {
    const char *all = std::getenv("FORETUNE_EMULATOR_FAIL");
    std::istringstream settings(all ? all : "");
    std::string name = std::string(what) + ":";
    for (std::string one; std::getline(settings, one, ',');)
        if (one.compare(0, name.size(), name) == 0) return std::atol(one.c_str() + name.size());
    return otherwise;
}

bool eager() {
    const char *value = std::getenv("FORETUNE_EMULATOR_EAGER");
    return value && std::string(value) == "1";
}

uint64_t memory_bytes() {
    const char *bytes = std::getenv("FORETUNE_EMULATOR_MEMORY");
    return bytes ? std::strtoull(bytes, nullptr, 10) : 8ull << 30;
}

const char *report_path() { return std::getenv("FORETUNE_EMULATOR_REPORT"); }
} // namespace emulator
