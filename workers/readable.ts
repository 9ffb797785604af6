import { defaultPayloadConverter, type Payload, type PayloadCodec } from '@temporalio/common';
import { isEncrypted } from './payload-codec.ts';

/**
 * Decrypts, in place, what is encrypted in an answer that the client hands on as the server gave it: the payloads of a
 * history or of pending activities, and the messages of failures. What can't be decrypted stays as it is.
 */
export async function makeReadable(value: unknown, codec: PayloadCodec): Promise<void> {
  if (Array.isArray(value)) {
    for (const one of value) await makeReadable(one, codec);
    return;
  }
  if (!isMessage(value)) return;
  for (const [name, inner] of Object.entries(value)) {
    if (isMessage(inner) && isEncrypted(inner)) value[name] = await decoded(inner, codec);
    else await makeReadable(value[name], codec);
  }
  // Lists of payloads are arrays, whose members have no name.
  if (Array.isArray(value['payloads'])) {
    value['payloads'] = await Promise.all(value['payloads'].map(async (one: Payload) => decoded(one, codec)));
  }
  restoreMessage(value);
}

async function decoded(payload: Payload, codec: PayloadCodec): Promise<Payload> {
  if (!isEncrypted(payload)) return payload;
  try {
    const [plain] = await codec.decode([payload]);
    return plain ?? payload;
  } catch {
    return payload;
  }
}

/** A failure with its message in `encodedAttributes`, where the failure converter puts it. */
function restoreMessage(failure: Record<string, unknown>): void {
  const payload = failure['encodedAttributes'];
  if (!isMessage(payload) || isEncrypted(payload)) return;
  const attributes: unknown = defaultPayloadConverter.fromPayload(payload);
  if (isMessage(attributes) && typeof attributes['message'] === 'string')
    failure['message'] = attributes['message'];
}

/** Something with fields: bytes and numbers of 64 bits have none worth a look. */
function isMessage(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !ArrayBuffer.isView(value) && !('unsigned' in value);
}
