// A communicator of host memory on top of one for a device: buffers of the host are uploaded, travel as the device's,
// and come back when they are waited for. So what tests hosts' communicators (comm/suite.h) tests devices' too.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "tensor/allocator.h"

namespace automodel::test {

// `inner` and `memory`, of its device, outlive the result. What is made from it is on the device too.
std::unique_ptr<comm::Communicator> make_on_device(comm::Communicator& inner, Allocator& memory);

}  // namespace automodel::test
