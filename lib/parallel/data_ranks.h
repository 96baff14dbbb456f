// The data-parallel ranks as a grid of replicas and shards: rank = replica * shards + shard. Each replica holds all
// weights, cut over its shards (HSDP; one replica: fsdp2, one shard: ddp).
//
// Sums run over the shards of a replica, then over the replicas. In the communicator's order of summation (a binary
// tree over the rank) that is the tree over all ranks whenever the number of shards is a power of two, so every such
// grid of the same ranks gives the same bits.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace automodel::parallel {

class DataRanks {
 public:
  // `all` outlives this object. Collective over it. Error(kBug): `replicas` does not divide its size.
  // `others`: ranks that have other weights of the same units (other experts); null: none.
  DataRanks(comm::Communicator& all, int replicas, comm::Communicator* others = nullptr);

  comm::Communicator& all() const { return all_; }
  comm::Communicator* others() const { return others_; }
  // The ranks that hold the other parts of what this rank holds a part of; "dp_shard".
  comm::Communicator& shard() const { return *shard_; }
  // The ranks that hold the same part as this one; "dp_replicate".
  comm::Communicator& replicate() const { return *replicate_; }

 private:
  comm::Communicator& all_;
  comm::Communicator* others_;
  std::unique_ptr<comm::Communicator> made_[2];
  comm::Communicator* shard_;
  comm::Communicator* replicate_;
};

}  // namespace automodel::parallel
