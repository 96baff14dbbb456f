// The communicators of one rank, one for each way in which ranks share the work. They outlive whoever is given them;
// null: this rank alone.
#pragma once

#include "comm/communicator.h"
#include "nn/parallel.h"

namespace automodel::parallel {

struct Groups {
  // The ranks that have the same weights and other tokens: replicas and shards of data parallelism and, within them
  // (fastest), context parallelism. They share weights (fsdp2) and sum gradients.
  comm::Communicator* data = nullptr;
  nn::Parallel model = {};
  comm::Communicator* experts = nullptr;  // with model.ep: the ranks that have the same experts
  comm::Communicator* pp = nullptr;       // pipeline parallelism: the ranks have other layers
};

}  // namespace automodel::parallel
