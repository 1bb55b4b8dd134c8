#include "protocol/member.h"

#include <cstring>

#include "protocol/convert.h"
#include "protocol/wire_text.h"

namespace baton {

std::string ModelIdentity::ToString() const {
  return fmt::format("model {} ({}) {} numerics={}", HexEncode(fingerprint).substr(0, 16), model_name, kv_layout, numerics);
}

void WriteIdentity(const ModelIdentity& identity, wire::ModelIdentity::Builder out) {
  out.setFingerprint(ToData(identity.fingerprint));
  out.setKvLayout(ToText(identity.kv_layout));
  out.setNumerics(ToText(identity.numerics));
  out.setBlockTokens(identity.block_tokens);
  out.setBlockBytes(identity.block_bytes);
  out.setVocab(identity.vocab);
  out.setMaxPositions(identity.max_positions);
  out.setModelName(ToText(identity.model_name));
  out.setKvDtype(ToText(identity.kv_dtype));
  WriteTokens(identity.eos_ids, out.initEosIds(static_cast<uint32_t>(identity.eos_ids.size())));
}

Result<ModelIdentity> ReadIdentity(wire::ModelIdentity::Reader in) {
  ModelIdentity identity;
  if (in.getFingerprint().size() != identity.fingerprint.size()) return InvalidError("a model's fingerprint must have {} bytes", identity.fingerprint.size());
  std::memcpy(identity.fingerprint.data(), in.getFingerprint().begin(), identity.fingerprint.size());
  identity.kv_layout = ToString(in.getKvLayout());
  identity.numerics = ToString(in.getNumerics());
  identity.block_tokens = in.getBlockTokens();
  identity.block_bytes = in.getBlockBytes();
  identity.vocab = in.getVocab();
  identity.max_positions = in.getMaxPositions();
  identity.model_name = ToString(in.getModelName());
  identity.kv_dtype = ToString(in.getKvDtype());
  identity.eos_ids = ReadTokens(in.getEosIds());
  if (identity.block_tokens == 0 || identity.block_bytes == 0) return InvalidError("a model identity without a block size");
  return Result<ModelIdentity>(std::move(identity));
}

void WriteInfo(const MemberInfo& member, wire::WorkerInfo::Builder out) {
  out.setName(ToText(member.name));
  auto roles = out.initRoles(static_cast<uint32_t>(member.roles.size()));
  for (uint32_t i = 0; i < member.roles.size(); ++i) roles.set(i, ToText(member.roles[i]));
  out.initAddress().setHost(ToText(member.address.host));
  out.getAddress().setPort(member.address.port);
  out.setTransportKind(ToText(member.transport_kind));
  out.setTransportAddress(ToText(member.transport_address));
  if (!member.model.empty()) WriteIdentity(member.model, out.initModel());
  out.setPid(member.pid);
  out.setHostname(ToText(member.hostname));
  out.setKvBlocks(member.kv_blocks);
}

Result<MemberInfo> ReadInfo(wire::WorkerInfo::Reader in) {
  MemberInfo member;
  member.name = ToString(in.getName());
  for (const auto role : in.getRoles()) member.roles.push_back(ToString(role));
  member.address = {ToString(in.getAddress().getHost()), in.getAddress().getPort()};
  member.transport_kind = ToString(in.getTransportKind());
  member.transport_address = ToString(in.getTransportAddress());
  if (in.hasModel()) {
    ASSIGN_OR_RETURN(member.model, ReadIdentity(in.getModel()));
  }
  member.pid = in.getPid();
  member.hostname = ToString(in.getHostname());
  member.kv_blocks = in.getKvBlocks();
  if (member.name.empty()) return InvalidError("a worker without a name");
  return Result<MemberInfo>(std::move(member));
}

void WriteMember(const MemberInfo& member, wire::Member::Builder out) {
  out.setId(member.id.value);
  out.setIncarnation(member.incarnation.value);
  WriteInfo(member, out.initInfo());
  out.setDraining(member.draining);
}

Result<MemberInfo> ReadMember(wire::Member::Reader in) {
  ASSIGN_OR_RETURN(MemberInfo member, ReadInfo(in.getInfo()));
  member.id = WorkerId(in.getId());
  member.incarnation = Incarnation(in.getIncarnation());
  member.draining = in.getDraining();
  if (member.id.value == 0) return InvalidError("a member without an id");
  return Result<MemberInfo>(std::move(member));
}

}  // namespace baton
