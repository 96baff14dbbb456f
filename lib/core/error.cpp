#include "core/error.h"

namespace automodel {

int exit_code(Fault fault) {
  switch (fault) {
    case Fault::kUsage:
    case Fault::kConfig:
    case Fault::kData:
    case Fault::kCheckpoint:
    case Fault::kDevice:
      return 2;
    case Fault::kShape:
    case Fault::kComm:
    case Fault::kIo:
    case Fault::kRun:
    case Fault::kBug:
      return 1;
  }
  return 1;
}

const char* name_of(Fault fault) {
  switch (fault) {
    case Fault::kUsage:
      return "usage";
    case Fault::kConfig:
      return "config";
    case Fault::kData:
      return "data";
    case Fault::kCheckpoint:
      return "checkpoint";
    case Fault::kShape:
      return "shape";
    case Fault::kDevice:
      return "device";
    case Fault::kComm:
      return "communication";
    case Fault::kRun:
      return "run";
    case Fault::kIo:
      return "io";
    case Fault::kBug:
      return "bug";
  }
  return "unknown";
}

}  // namespace automodel
