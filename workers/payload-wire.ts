import type { Payload } from '@temporalio/common';
import protobuf from 'protobufjs/minimal.js';

/**
 * `temporal.api.common.v1.Payload` as Protocol Buffers, which is what Temporal's own samples encrypt: `metadata`, a map
 * from text to bytes, is field 1, `data` field 2.
 */

const [METADATA, DATA, MAP_KEY, MAP_VALUE] = [1, 2, 1, 2];

export function encodePayload({ metadata, data }: Payload): Uint8Array {
  const writer = protobuf.Writer.create();
  for (const [name, value] of Object.entries(metadata ?? {})) {
    writer.uint32(tag(METADATA)).fork();
    writer.uint32(tag(MAP_KEY)).string(name).uint32(tag(MAP_VALUE)).bytes(value);
    writer.ldelim();
  }
  if (data) writer.uint32(tag(DATA)).bytes(data);
  return writer.finish();
}

/** @throws Error when these are not the bytes of a payload */
export function decodePayload(bytes: Uint8Array): Payload {
  const reader = protobuf.Reader.create(bytes);
  const metadata: [name: string, value: Uint8Array][] = [];
  let data: Uint8Array | undefined;
  while (reader.pos < reader.len) {
    const field = reader.uint32();
    if (field === tag(METADATA)) metadata.push(decodeEntry(reader));
    else if (field === tag(DATA)) data = reader.bytes();
    else reader.skipType(field & 7);
  }
  // Not assigned one by one: a name may be `__proto__`, which would be taken for the object's prototype.
  return { metadata: Object.fromEntries(metadata), ...(data && { data }) };
}

function decodeEntry(reader: protobuf.Reader): [name: string, value: Uint8Array] {
  const end = reader.uint32() + reader.pos;
  let name = '';
  let value: Uint8Array = new Uint8Array();
  while (reader.pos < end) {
    const field = reader.uint32();
    if (field === tag(MAP_KEY)) name = reader.string();
    else if (field === tag(MAP_VALUE)) value = reader.bytes();
    else reader.skipType(field & 7);
  }
  return [name, value];
}

/** A field whose value has its length in front. */
function tag(field: number | undefined): number {
  return ((field ?? 0) << 3) | 2;
}
