import { describe, expect, it, test } from 'vitest';
import { objectStoreSchema } from '../../manifests/object-store-resource.ts';
import { JobRegistry } from '../../operations/job-registry.ts';
import { createSecretResolver } from '../../operations/secret-resolver.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { createRestorePorts } from '../../workers/restore-ports.ts';
import { parseSource, storeOfSource } from '../../workers/restore-source.ts';
import { makeTempDir } from '../support/temp.ts';

const PLUGIN = 'barman-cloud.cloudnative-pg.io';
const REQUEST = { cluster: 'copy', namespace: 'shop' };

function plugin(parameters: object, more: object = {}) {
  return { name: 'origin', plugin: { name: PLUGIN, parameters, ...more } };
}

async function stateWith(destinationPath: string) {
  const state = openStateDirectory(makeTempDir('state'));
  await state.objectStores.save(
    objectStoreSchema.parse({
      apiVersion: 'barmancloud.cnpg.io/v1',
      kind: 'ObjectStore',
      metadata: { name: 'bucket', namespace: 'shop' },
      spec: { configuration: { destinationPath } },
    }),
  );
  return state;
}

describe('the JSON source of a restore', () => {
  it('with the Barman plugin means what the ObjectStore says that is applied on the host of the worker', async () => {
    const { objectStores } = await stateWith('s3://backups/postgres');
    const of = (source: object) => storeOfSource(parseSource({ ...source }), REQUEST, objectStores);
    const named = plugin({ barmanObjectName: 'bucket', serverName: 'origin-1' });
    expect(await of(named)).toMatchObject({
      destinationPath: 's3://backups/postgres',
      serverName: 'origin-1',
    });
    // The plugin's own rule, and not that of barmanObjectStore.
    expect(await of(plugin({ barmanObjectName: 'bucket' }))).toMatchObject({ serverName: 'copy' });
    const off = { ...plugin({}, { enabled: false }), barmanObjectStore: { destinationPath: 's3://other' } };
    expect(await of(off)).toMatchObject({ destinationPath: 's3://other' });
  });

  it.for([
    { data: { additionalCommandArgs: ['--sse-kms-key-id=abc'] } },
    { data: { additionalCommandArgs: ['--encryption=aws:kms', '--sse-kms-key-id=abc'] } },
    { wal: { archiveAdditionalCommandArgs: ['-e', 'none', '--sse-kms-key-id'] } },
    {
      data: { additionalCommandArgs: ['--addressing-style=path'] },
      wal: { archiveAdditionalCommandArgs: ['--addressing-style=virtual'] },
    },
  ])('is taken with %j: nothing is written there', (fields) => {
    const barmanObjectStore = {
      destinationPath: 's3://b/p',
      s3Credentials: { inheritFromIAMRole: true },
      ...fields,
    };
    expect(parseSource({ name: 'o', barmanObjectStore })).toMatchObject({ barmanObjectStore });
  });

  it('is where the worker looks', async () => {
    const directory = `${makeTempDir('repository')}/not-mounted`;
    const state = await stateWith(`file://${directory}`);
    const ports = createRestorePorts({
      instance: 'copy-1',
      pgdata: makeTempDir('pgdata'),
      state,
      resolver: createSecretResolver({ stateDirectory: state.root, environment: {} }),
      socketPath: () => '',
      jobs: new JobRegistry(),
      askServer: () => Promise.resolve(),
    });
    const plan = (parameters: object) =>
      ports.plan({ ...REQUEST, instance: 'copy-1', source: plugin(parameters) }, AbortSignal.timeout(30_000));
    await expect(plan({ barmanObjectName: 'bucket', serverName: 'origin' })).rejects.toThrow(directory);
    await expect(plan({ barmanObjectName: 'elsewhere' })).rejects.toMatchObject({
      code: 'input-invalid',
      retryable: false,
      message:
        'restore: field "source.plugin.parameters.barmanObjectName": ObjectStore "elsewhere" is not applied on the host of this worker in namespace shop',
      hint: expect.stringContaining('"barmanObjectStore": {"destinationPath": …, "serverName": "copy"}'),
    });
  });

  test.for([
    {
      what: 'another plugin',
      source: { name: 'o', plugin: { name: 'klio.cnpg.io', parameters: { barmanObjectName: 'bucket' } } },
      message: /"source\.plugin\.name".*runs no plugins.*"klio\.cnpg\.io"/,
    },
    {
      what: 'one that is switched off',
      source: plugin({ barmanObjectName: 'bucket' }, { enabled: false }),
      message: /"source\.plugin\.enabled": is false/,
    },
    {
      what: 'no ObjectStore',
      source: plugin({ serverName: 'x' }),
      message: /barmanObjectName": names no ObjectStore/,
    },
    {
      what: 'a misspelt parameter, by which another folder would be read',
      source: plugin({ barmanObjectName: 'bucket', servername: 'origin' }),
      message: /parameters\.servername": is no parameter/,
    },
    {
      what: 'S2: a folder that leaves the destination',
      source: plugin({ barmanObjectName: 'bucket', serverName: '../other' }),
      message: /"source\.plugin\.parameters\.serverName"/,
    },
    {
      what: 'S2: a name that leaves the state directory',
      source: plugin({ barmanObjectName: '../../secrets' }),
      message: /"source\.plugin\.parameters\.barmanObjectName"/,
    },
    {
      what: 'a plugin beside barmanObjectStore, whose serverName would be lost,',
      source: {
        ...plugin({ barmanObjectName: 'bucket', serverName: 'old' }),
        barmanObjectStore: { destinationPath: 's3://backups/postgres' },
      },
      message: /"source": holds "plugin" and "barmanObjectStore": which of the two/,
    },
    {
      what: 'a misspelt parameter beside barmanObjectStore',
      source: {
        ...plugin({ barmanObjectName: 'bucket', severName: 'old' }),
        barmanObjectStore: { destinationPath: 's3://backups/postgres' },
      },
      message: /"source": holds "plugin" and "barmanObjectStore"/,
    },
    {
      what: 'two credentials at once',
      source: {
        name: 'o',
        barmanObjectStore: {
          destinationPath: 's3://b',
          s3Credentials: { inheritFromIAMRole: true },
          googleCredentials: { gkeEnvironment: true },
        },
      },
      message: /"source\.barmanObjectStore/,
    },
    { what: 'nothing to reach it by', source: { name: 'o' }, message: /"source": .*nothing to reach it by/ },
    {
      what: 'a connection alone',
      source: { name: 'o', connectionParameters: { host: 'h' } },
      message: /"source": "o" has no repository/,
    },
  ])('$what is refused, and the field is named', async ({ source, message }) => {
    const { objectStores } = await stateWith('s3://backups/postgres');
    const read = async () => storeOfSource(parseSource({ ...source }), REQUEST, objectStores);
    await expect(read()).rejects.toMatchObject({
      code: 'input-invalid',
      retryable: false,
      message: expect.stringMatching(message),
    });
  });
});
