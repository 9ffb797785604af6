import { expect, it, vi } from 'vitest';
import { keepCommand, releaseCommand } from '../../cli/keep.ts';
import { Secret } from '../../core/secret.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { openClusterRepository } from '../../operations/open-repository.ts';
import { createSecretResolver } from '../../operations/secret-resolver.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { readKeeps } from '../../repository/keeps.ts';
import { createGcsStore } from '../../stores/gcs.ts';
import { startAzurite } from '../support/azurite.ts';
import { startFakeGcs } from '../support/fake-gcs.ts';
import { idOf, recordOf, type MadeBackup } from '../support/made-repository.ts';
import { startS3 } from '../support/s3.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeWith } from '../support/tools.ts';

const NOW = Date.now();
const BACKUP: MadeBackup = { ago: 1, at: 3 };
const ID = idOf(BACKUP, NOW);
const SIGNAL = new AbortController().signal;
const ANNOTATION = `orders/base/${ID}/annotations/keep`;

interface Place {
  /** Without a slash at the end. */
  readonly destination: string;
  /** Of a `barmanObjectStore`, besides. */
  readonly fields: object;
  readonly secrets?: Readonly<Record<string, string>>;
  /** Puts the annotation under the key that stock tools make of a destination with a slash at the end. */
  putDoubled?(): Promise<void>;
}

const reference = (key: string) => ({ name: 'keys', key });

const PLACES: Readonly<Record<string, () => Promise<Place>>> = {
  async 'S3 (versitygw)'() {
    const s3 = await startS3();
    const keys = { accessKeyId: reference('id'), secretAccessKey: reference('key') };
    return {
      destination: `s3://${s3.bucket}/team`,
      fields: { endpointURL: s3.endpointUrl, s3Credentials: keys },
      // A server that keeps keys as files has no key with two slashes: test/repository/keeps.test.ts.
      secrets: { id: s3.accessKeyId, key: s3.secretAccessKey },
    };
  },
  async 'Azure (azurite)'() {
    const azurite = await startAzurite();
    return {
      destination: azurite.destination('team'),
      fields: { azureCredentials: { connectionString: reference('connection') } },
      secrets: { connection: azurite.connectionString },
      async putDoubled() {
        await azurite.client().getBlockBlobClient(`team//${ANNOTATION}`).upload('full', 4);
      },
    };
  },
  async 'Google (fake-gcs-server)'() {
    const gcs = await startFakeGcs();
    const { bucket, endpointUrl } = gcs;
    return {
      destination: `gs://${bucket}/team`,
      fields: { endpointURL: endpointUrl },
      async putDoubled() {
        const stock = createGcsStore({ kind: 'gs', bucket, endpointUrl, prefix: 'team/' });
        await stock.put(ANNOTATION, Buffer.from('full'), { signal: SIGNAL });
      },
    };
  },
  async 'a directory'() {
    return { destination: `file://${makeTempDir('repository')}`, fields: {} };
  },
};

describeWith(['versitygw', 'azurite', 'fake-gcs-server'], 'walkeep keep and release', () => {
  it.for(Object.entries(PLACES))(
    'D1, E5: %s: by a destination with and without a slash at its end is one and the same',
    { timeout: 60_000 },
    async ([, open]) => {
      const place = await open();
      const root = makeTempDir('state');
      const state = openStateDirectory(root);
      const values = new Map(
        Object.entries(place.secrets ?? {}).map(([key, value]) => [key, new Secret(value)]),
      );
      await state.createSecret({ namespace: 'default', name: 'keys', values });
      const cluster = (called: string, destinationPath: string) =>
        clusterSchema.parse({
          apiVersion: 'postgresql.cnpg.io/v1',
          kind: 'Cluster',
          metadata: { name: called },
          spec: { backup: { barmanObjectStore: { ...place.fields, destinationPath, serverName: 'orders' } } },
        });
      const plain = cluster('plain', place.destination);
      await state.clusters.save(plain);
      await state.clusters.save(cluster('slash', `${place.destination}/`));
      const r = await openClusterRepository(
        plain,
        createSecretResolver({ stateDirectory: root, environment: {} }),
      );
      await r.store.put(`orders/base/${ID}/data.tar`, Buffer.from('x'), { signal: SIGNAL });
      const record = Buffer.from(recordOf(BACKUP, NOW));
      await r.store.put(`orders/base/${ID}/backup.info`, record, { signal: SIGNAL });
      const said = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
      const keep = (called: string) =>
        keepCommand().parseAsync([called, ID, '--state', root], { from: 'user' });
      const release = (called: string) =>
        releaseCommand().parseAsync([called, ID, '--state', root], { from: 'user' });
      try {
        for (const [one, other] of [
          ['plain', 'slash'],
          ['slash', 'plain'],
        ] as const) {
          await keep(one);
          expect((await readKeeps(r, SIGNAL)).get(ID)).toBe('full');
          await release(other);
          expect((await readKeeps(r, SIGNAL)).get(ID)).toBeUndefined();
          await place.putDoubled?.();
          await release(one);
          expect((await readKeeps(r, SIGNAL)).get(ID)).toBeUndefined();
        }
        const lines = said.mock.calls.map(([text]) => String(text).trim());
        const last = place.putDoubled ? 'is released' : 'was not kept';
        expect(lines).toEqual(
          [0, 1].flatMap(() => [
            `backup ${ID} is kept (full)`,
            `backup ${ID} is released`,
            `backup ${ID} ${last}`,
          ]),
        );
      } finally {
        said.mockRestore();
        await r.close();
      }
    },
  );
});
