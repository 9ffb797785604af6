import { makeTempDir } from '../support/temp.ts';
import { startAzurite } from '../support/azurite.ts';
import { s3Arguments } from '../support/barman.ts';
import { startFakeGcs } from '../support/fake-gcs.ts';
import { startS3 } from '../support/s3.ts';
import type { PlainStoreConfig } from '../../stores/store-config.ts';

/** Where backups go, for us and for barman-cloud. */
export interface Place {
  readonly store: PlainStoreConfig;
  /** Options, address and environment of barman-cloud's programs, where they can go there. */
  readonly barman?: {
    readonly options: readonly string[];
    readonly url: string;
    readonly environment: Readonly<Record<string, string>>;
  };
}

export const PLACES = ['versitygw', 'azurite', 'fake-gcs', 'directory'] as const;
export type PlaceName = (typeof PLACES)[number];

export async function startPlace(name: PlaceName): Promise<Place> {
  switch (name) {
    case 'versitygw': {
      const s3 = await startS3();
      const { bucket, endpointUrl, region, accessKeyId, secretAccessKey } = s3;
      const credentials = { accessKeyId, secretAccessKey };
      return {
        store: { kind: 's3', bucket, prefix: '', endpointUrl, region, credentials },
        barman: { options: s3Arguments(s3), url: `s3://${bucket}`, environment: s3.environment },
      };
    }
    case 'azurite': {
      const azurite = await startAzurite();
      const { serviceUrl, container, connectionString } = azurite;
      const credentials = { way: 'connection-string', connectionString } as const;
      return {
        store: { kind: 'azure', serviceUrl, container, prefix: '', credentials },
        barman: {
          options: ['--cloud-provider', 'azure-blob-storage'],
          url: azurite.destination(),
          environment: { AZURE_STORAGE_CONNECTION_STRING: connectionString },
        },
      };
    }
    case 'fake-gcs': {
      const { bucket, endpointUrl, environment } = await startFakeGcs();
      return {
        store: { kind: 'gs', bucket, prefix: '', endpointUrl },
        barman: {
          options: ['--cloud-provider', 'google-cloud-storage'],
          url: `gs://${bucket}`,
          environment,
        },
      };
    }
    case 'directory':
      return { store: { kind: 'file', directory: makeTempDir('repo') } };
  }
}
