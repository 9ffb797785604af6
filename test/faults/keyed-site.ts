import { Secret } from '../../core/secret.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { startCanary } from '../support/canary.ts';
import { createLedger } from '../support/oracles.ts';
import { startSite, clusterManifest, type SiteOptions } from '../support/walkeep.ts';
import { startKeyedS3, type KeyedS3 } from './keyed-s3.ts';
import { paceQuickly, type FaultSite } from './site.ts';
import { startWeather, type Weather } from './weather.ts';

const SECRET_NAME = 'store-keys';

/** A site whose store has weather, and keys that can be replaced. */
export interface KeyedSite extends FaultSite {
  readonly s3: KeyedS3;
  readonly weather: Weather;
  /** Past the weather, with the key that is valid now. */
  openRepository(): Repository;
  /** A new key in the store, and in the Secret that is applied; then the old one is revoked. */
  rotateKey(): Promise<void>;
  /** A new key in the store, the old one revoked; the Secret is as it was until `applyKey`. */
  revokeKey(): Promise<void>;
  /** Applies the Secret with the key that is valid now. */
  applyKey(): Promise<void>;
  /** The key that is valid now. */
  key(): { readonly access: string; readonly secret: string };
}

/** A site that first has a directory, and then, by an applied change, a bucket behind a proxy. */
export async function startKeyedSite(options: Omit<SiteOptions, 'store'>): Promise<KeyedSite> {
  paceQuickly();
  // Archiving keeps to what its workflow was told first.
  const pace = JSON.parse(process.env['WALKEEP_PACE'] ?? '{}') as object;
  process.env['WALKEEP_PACE'] = JSON.stringify({ ...pace, archivingReport: 2 });
  const s3 = await startKeyedS3();
  const weather = await startWeather(s3.endpointUrl);
  const site = await startSite(options);
  const { cluster, machine, postgres } = site;
  let number = 0;
  const key = () => ({ access: `walkeep-key-${number}`, secret: `walkeep-secret-${number}-0123456789` });
  const secret = () => ({
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { name: SECRET_NAME },
    stringData: { ID: key().access, KEY: key().secret },
  });
  const nextKey = async (): Promise<string> => {
    const old = key().access;
    number += 1;
    await s3.createKey(key().access, key().secret);
    return old;
  };
  const applyKey = async () => void (await machine.apply(secret()));

  await nextKey();
  const barmanObjectStore = {
    ...site.barmanObjectStore,
    destinationPath: `s3://${s3.bucket}/deep`,
    endpointURL: weather.url,
    s3Credentials: {
      accessKeyId: { name: SECRET_NAME, key: 'ID' },
      secretAccessKey: { name: SECRET_NAME, key: 'KEY' },
    },
  };
  const manifest = clusterManifest(cluster, { backup: { barmanObjectStore } });
  await machine.apply(secret(), manifest);
  const ledger = createLedger();
  const [row] = await postgres.psql<{ archive_command: string }>('SHOW archive_command');
  // The change reaches the worker's host a moment after `apply` has returned.
  while (weather.counts().asked === 0) await postgres.waitUntilArchived(await postgres.switchWal());
  postgres.configure({ archive_command: ledger.around(row?.archive_command ?? '') });
  await postgres.reload();
  const canary = await startCanary(postgres);
  return {
    ...site,
    manifests: [secret(), manifest],
    barmanObjectStore,
    ledger,
    canary,
    directory: '',
    s3,
    weather,
    key,
    applyKey,
    openRepository() {
      const { access, secret: value } = key();
      const credentials = { accessKeyId: new Secret(access), secretAccessKey: new Secret(value) };
      const place = { kind: 's3', bucket: s3.bucket, prefix: 'deep', region: 'us-east-1' } as const;
      return createRepository(openStore({ ...place, endpointUrl: s3.endpointUrl, credentials }), cluster);
    },
    async rotateKey() {
      const old = await nextKey();
      await applyKey();
      await s3.revokeKey(old);
    },
    async revokeKey() {
      await s3.revokeKey(await nextKey());
    },
  };
}
