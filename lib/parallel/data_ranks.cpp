#include "parallel/data_ranks.h"

#include <vector>

#include "comm/single.h"
#include "core/error.h"

namespace automodel::parallel {

DataRanks::DataRanks(comm::Communicator& all, int replicas, comm::Communicator* others)
    : all_(all), others_(others), shard_(&all), replicate_(&all) {
  AM_CHECK(replicas > 0 && all.size() % replicas == 0, Fault::kBug, "{} data-parallel ranks do not make {} replicas",
           all.size(), replicas);
  int shards = all.size() / replicas;
  auto group = [&](int first, int step, int count, const char* name) {
    if (count == 1) return comm::make_single(name);
    std::vector<int> members;
    for (int i = 0; i < count; ++i) members.push_back(first + i * step);
    return all.partition(members, name);
  };
  if (replicas > 1) shard_ = (made_[0] = group(all.rank() / shards * shards, 1, shards, "dp_shard")).get();
  if (shards > 1) replicate_ = (made_[1] = group(all.rank() % shards, shards, replicas, "dp_replicate")).get();
}

}  // namespace automodel::parallel
