import { chmodSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { defaultPayloadConverter, type Payload } from '@temporalio/common';
import fc from 'fast-check';
import protobuf from 'protobufjs';
import { describe, expect, it } from 'vitest';
import { createCodecServer } from '../../cli/codec-server.ts';
import {
  createPayloadCodec,
  ENCRYPTED,
  payloadConversion,
  readPayloadKeys,
} from '../../workers/payload-codec.ts';
import { decodePayload, encodePayload } from '../../workers/payload-wire.ts';
import { makeTempDir } from '../support/temp.ts';

const KEY = Buffer.alloc(32, 7).toString('base64');
const OTHER = Buffer.alloc(32, 8).toString('base64');
const codecOf = (WALKEEP_PAYLOAD_KEY: string) => createPayloadCodec(readPayloadKeys({ WALKEEP_PAYLOAD_KEY }));
const json = (value: unknown): Payload => defaultPayloadConverter.toPayload(value);
const text = (bytes: Uint8Array | null | undefined): string => Buffer.from(bytes ?? []).toString();
const plainOf = (payloads: readonly Payload[]) =>
  payloads.map((payload) => defaultPayloadConverter.fromPayload(payload));

function keyFile(lines: string, mode = 0o600): string {
  const file = join(makeTempDir('keys'), 'keys');
  writeFileSync(file, lines);
  chmodSync(file, mode);
  return file;
}

describe('payloads as Protocol Buffers', () => {
  it('are as a library writes and reads them by the definition of Temporal’s API', () => {
    const definition =
      'syntax = "proto3"; message Payload { map<string, bytes> metadata = 1; bytes data = 2; string later = 9; }';
    const theirs = protobuf.parse(definition).root.lookupType('Payload');
    const hex = (bytes: unknown) => Buffer.from((bytes ?? []) as Uint8Array).toString('hex');
    const readable = ({ metadata, data }: { metadata?: unknown; data?: unknown; toJSON?: unknown }) => ({
      metadata: Object.fromEntries(Object.entries(metadata ?? {}).map(([name, value]) => [name, hex(value)])),
      data: hex(data),
    });
    const bytes = fc.uint8Array({ maxLength: 300 });
    const entries = fc.dictionary(fc.string(), bytes, { maxKeys: 4, noNullPrototype: true });
    fc.assert(
      fc.property(entries, bytes, (metadata, data) => {
        const payload = { metadata, data };
        expect(readable(theirs.decode(encodePayload(payload)))).toEqual(readable(payload));
        const written = theirs.encode({ ...payload, later: 'a field of tomorrow' }).finish();
        expect(readable(decodePayload(written))).toEqual(readable(payload));
      }),
      // A name that an assignment would take for the prototype.
      { examples: [[{ ['__proto__']: Buffer.from('x'), encoding: Buffer.from('y') }, Buffer.of()]] },
    );
  });
});

describe('the payload codec', () => {
  it('S1: what it wrote shows nothing of the content and reads back the same', async () => {
    const codec = codecOf(`k1=${KEY}`);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.jsonValue(), { maxLength: 3 }), async (values) => {
        const encoded = await codec.encode(values.map(json));
        for (const payload of encoded) {
          expect(text(payload.metadata?.['encoding'])).toBe(ENCRYPTED);
          expect(text(payload.metadata?.['encryption-key-id'])).toBe('k1');
        }
        expect(await codec.decode(encoded)).toHaveLength(values.length);
        expect(plainOf(await codec.decode(encoded))).toEqual(JSON.parse(JSON.stringify(values)));
      }),
    );
    const [secret] = await codec.encode([json('s3cr3t words')]);
    expect(Buffer.from(secret!.data!).includes('s3cr3t')).toBe(false);
    const [again] = await codec.encode([json('s3cr3t words')]);
    expect(Buffer.from(again!.data!).equals(secret!.data!)).toBe(false);
  });

  it('takes plain JSON as it is: people start workflows with it', async () => {
    expect(plainOf(await codecOf(KEY).decode([json({ cluster: 'main' })]))).toEqual([{ cluster: 'main' }]);
  });

  it('rotates: the first key writes, all of them read', async () => {
    const [old] = await codecOf(`old=${KEY}`).encode([json(1)]);
    const rotated = codecOf(`new = ${OTHER}\n# before\nold: ${KEY}\n`);
    expect(plainOf(await rotated.decode([old!]))).toEqual([1]);
    const [fresh] = await rotated.encode([json(2)]);
    expect(text(fresh!.metadata?.['encryption-key-id'])).toBe('new');
    await expect(codecOf(`old=${KEY}`).decode([fresh!])).rejects.toThrow(/key "new".*this process has "old"/);
  });

  it('without the key, with another of the same name, or damaged: a clear refusal that tells no key', async () => {
    const [payload] = await codecOf(`k=${KEY}`).encode([json('x')]);
    const none = createPayloadCodec([]);
    await expect(none.decode([payload!])).rejects.toMatchObject({
      code: 'secret-missing',
      message: 'a payload is encrypted with the key "k", and this process has none',
    });
    await expect(codecOf(`k=${OTHER}`).decode([payload!])).rejects.toMatchObject({ code: 'secret-missing' });
    const damaged = Buffer.from(payload!.data!);
    damaged[20]! ^= 1;
    await expect(codecOf(`k=${KEY}`).decode([{ ...payload, data: damaged }])).rejects.toThrow(/damaged/);
    for (const data of [Buffer.of(), Buffer.alloc(12), Buffer.alloc(27)]) {
      await expect(codecOf(`k=${KEY}`).decode([{ ...payload, data }])).rejects.toThrow(/damaged/);
    }
    expect(plainOf(await none.encode([json('y')]))).toEqual(['y']);
  });

  it.for([
    { why: 'empty', given: { WALKEEP_PAYLOAD_KEY: '' }, says: /holds no key/ },
    { why: 'too short', given: { WALKEEP_PAYLOAD_KEY: 'c2hvcnQ=' }, says: /not 32 bytes in base64/ },
    {
      why: 'not base64',
      given: { WALKEEP_PAYLOAD_KEY: 'a passphrase of some length, 44 characters!!' },
      says: /not 32 bytes/,
    },
    {
      why: 'a name twice',
      given: { WALKEEP_PAYLOAD_KEY: `a=${KEY},a=${OTHER}` },
      says: /two keys named "a"/,
    },
    { why: 'both', given: { WALKEEP_PAYLOAD_KEY: KEY, WALKEEP_PAYLOAD_KEY_FILE: '/x' }, says: /both set/ },
    { why: 'no file', given: { WALKEEP_PAYLOAD_KEY_FILE: '/not/there' }, says: /can't be read/ },
  ])(
    'S1: a key that is none ($why) is refused: nothing is written in plain text by mistake',
    ({ given, says }) => {
      let message = '';
      try {
        payloadConversion(given);
      } catch (error) {
        message = String(error);
      }
      expect(message).toMatch(says);
      for (const value of [KEY, OTHER, 'c2hvcnQ=', 'passphrase']) expect(message).not.toContain(value);
    },
  );

  it('a key file that everybody may open is refused', () => {
    expect(() => readPayloadKeys({ WALKEEP_PAYLOAD_KEY_FILE: keyFile(KEY, 0o644) })).toThrow(/everybody/);
    expect(readPayloadKeys({ WALKEEP_PAYLOAD_KEY_FILE: keyFile(`${KEY}\n`) })).toHaveLength(1);
  });

  it('nothing is asked for: nothing is encrypted, and failures stay readable', () => {
    expect(payloadConversion({}).dataConverter).not.toHaveProperty('failureConverterPath');
    expect(payloadConversion({ WALKEEP_PAYLOAD_KEY: KEY }).dataConverter.failureConverterPath).toMatch(
      /failure-converter\.ts$/,
    );
  });
});

describe('the codec server', () => {
  const codec = codecOf(`k=${KEY}`);
  const origin = 'http://localhost:8233';

  async function withServer(use: (port: number) => Promise<void>): Promise<void> {
    const server = createCodecServer(codec, [origin]);
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    const address = server.address();
    try {
      await use(typeof address === 'object' && address ? address.port : 0);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  }
  const post = (port: number, path: string, body: string, headers: Record<string, string> = {}) =>
    fetch(`http://127.0.0.1:${port}${path}`, { method: 'POST', body, headers });
  const asJson = ({ metadata, data }: Payload) => ({
    metadata: Object.fromEntries(
      Object.entries(metadata ?? {}).map(([name, value]) => [name, Buffer.from(value).toString('base64')]),
    ),
    data: Buffer.from(data ?? []).toString('base64'),
  });

  it('encodes and decodes what Temporal’s tools post', () =>
    withServer(async (port) => {
      const plain = JSON.stringify({ payloads: [asJson(json({ cluster: 'main' }))] });
      const encoded = await (await post(port, '/encode', plain)).text();
      expect(encoded).toContain(Buffer.from(ENCRYPTED).toString('base64'));
      const decoded = await post(port, '/default/decode', encoded, { 'x-namespace': 'default' });
      expect(JSON.parse(await decoded.text())).toEqual(JSON.parse(plain));
    }));

  it('answers the Web UI it was told of, and no other page', () =>
    withServer(async (port) => {
      const allowed = await post(port, '/decode', '{"payloads":[]}', { origin });
      expect(allowed.status).toBe(200);
      expect(allowed.headers.get('access-control-allow-origin')).toBe(origin);
      const preflight = await new Promise<number>((resolve) => {
        request(
          { port, host: '127.0.0.1', path: '/decode', method: 'OPTIONS', headers: { origin } },
          (response) => {
            response.resume();
            resolve(response.statusCode ?? 0);
          },
        ).end();
      });
      expect(preflight).toBe(204);
      const other = await post(port, '/decode', '{"payloads":[]}', { origin: 'https://evil.example' });
      expect(other.status).toBe(403);
      expect(other.headers.get('access-control-allow-origin')).toBeNull();
    }));

  it('says what is wrong with what it can’t decode', () =>
    withServer(async (port) => {
      const foreign = await codecOf(`f=${OTHER}`).encode([json(1)]);
      const answer = await post(port, '/decode', JSON.stringify({ payloads: foreign.map(asJson) }));
      expect(answer.status).toBe(400);
      expect(await answer.text()).toContain('key "f"');
      for (const body of ['', '7', '{"payloads":7}', '{"payloads":[7]}', '{"payloads":[{"data":7}]}'])
        expect((await post(port, '/decode', body)).status).toBe(400);
      expect((await post(port, '/other', '{}')).status).toBe(404);
    }));
});
