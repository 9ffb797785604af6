/**
 * E1 through each kind of store, around what it cuts at: parts of 16 MiB of S3 and of Google, blocks of 8 MiB and whole
 * blobs of 16 MiB of Azure. Encryption is the store's own: it is asked for, and the bytes come back as they were.
 */
import { createHash, randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { Secret } from '../../core/secret.ts';
import { openStore } from '../../stores/open-store.ts';
import type { StoreConfig } from '../../stores/store-config.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { CODECS, compress, decompress, type Codec } from '../../streams/codec.ts';
import { startAzurite } from '../support/azurite.ts';
import { startFakeGcs } from '../support/fake-gcs.ts';
import { startS3 } from '../support/s3.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeWith, type Tool } from '../support/tools.ts';

const MiB = 1024 * 1024;
const signal = AbortSignal.timeout(170_000);
/** Stored sizes, exactly. */
const STORED = [0, 1, 256 * 1024 + 1, 8 * MiB, 16 * MiB - 1, 16 * MiB, 16 * MiB + 1, 24 * MiB + 1, 32 * MiB];
const noise = randomBytes(32 * MiB);
const hash = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

async function* inPieces(bytes: Uint8Array): AsyncGenerator<Uint8Array, void, void> {
  // pieces that fit no limit
  for (let at = 0; at < bytes.length; at += 99_991) yield bytes.subarray(at, at + 99_991);
}

const STORES: Readonly<Record<string, { needs: readonly Tool[]; open: () => Promise<StoreConfig> }>> = {
  S3: {
    needs: ['versitygw'],
    async open() {
      const { endpointUrl, bucket, accessKeyId, secretAccessKey } = await startS3();
      const credentials = {
        accessKeyId: new Secret(accessKeyId),
        secretAccessKey: new Secret(secretAccessKey),
      };
      return { kind: 's3', bucket, prefix: 'deep', endpointUrl, credentials };
    },
  },
  Azure: {
    needs: ['azurite'],
    async open() {
      const { serviceUrl, container, account, accountKey } = await startAzurite();
      const credentials = { way: 'account-key', account, key: new Secret(accountKey) } as const;
      return { kind: 'azure', serviceUrl, container, prefix: 'deep', encryptionScope: 'ours', credentials };
    },
  },
  Google: {
    needs: ['fake-gcs-server'],
    async open() {
      const { endpointUrl, bucket } = await startFakeGcs();
      const kmsKeyName = 'projects/p/locations/l/keyRings/r/cryptoKeys/k';
      return { kind: 'gs', bucket, prefix: 'deep', endpointUrl, kmsKeyName };
    },
  },
  'a directory': {
    needs: [],
    open: async () => ({ kind: 'file', directory: makeTempDir('codecs') }),
  },
};

describe('out is in', () => {
  for (const [name, { needs, open }] of Object.entries(STORES)) {
    describeWith(needs, name, () => {
      it('E1: around all that it cuts at, of known and of unknown length', async () => {
        const store = openStore(await open());
        for (const [at, size] of STORED.entries()) {
          const plain = noise.subarray(0, size);
          const known = at % 2 === 0 ? { sizeBytes: size } : {};
          const encryption = at % 2 === 0 ? 'AES256' : 'aws:kms';
          await store.put(`part-${at}`, inPieces(plain), { signal, encryption, ...known });
          const got = await collectBytes((await store.get(`part-${at}`, { signal }))!, size);
          expect(hash(got), `${size} bytes`).toBe(hash(plain));
        }
      });

      it.each(CODECS)('E1: through %s, a part and more', async (codec: Codec) => {
        const store = openStore(await open());
        const size = codec === 'bzip2' || codec === 'xz' ? 2 * MiB + 1 : 16 * MiB + 1;
        for (const plain of [Buffer.alloc(0), noise.subarray(0, 1), noise.subarray(0, size)]) {
          const key = `part-${plain.length}`;
          await store.put(key, compress(codec, inPieces(plain), { signal }), { signal });
          const got = decompress(codec, (await store.get(key, { signal }))!, { signal });
          expect(hash(await collectBytes(got, plain.length))).toBe(hash(plain));
        }
      });
    });
  }
});
