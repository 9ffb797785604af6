import fc from 'fast-check';
import { stringify } from 'yaml';
import { describe, expect, it, test } from 'vitest';
import { clusterSchema, CNPG_API, type ClusterManifest } from '../../manifests/cluster.ts';
import { BARMAN_PLUGIN_API, objectStoreSchema } from '../../manifests/object-store-resource.ts';
import { withObjectStores, withoutObjectStores } from '../../manifests/with-object-stores.ts';
import { loadText, loadTexts, told } from './load-text.ts';

const PLUGIN = 'barman-cloud.cloudnative-pg.io';
const key = (name: string) => ({ name: 'keys', key: name });
const CONFIGURATION = {
  destinationPath: 's3://backups/postgres',
  endpointURL: 'https://s3.example.org',
  endpointCA: key('CA'),
  s3Credentials: { accessKeyId: key('ID'), secretAccessKey: key('SECRET'), region: key('REGION') },
  wal: { compression: 'zstd', maxParallel: 4, archiveTimeout: '5min' },
  data: { compression: 'gzip', jobs: 3, immediateCheckpoint: true },
  tags: { team: 'shop' },
  historyTags: { team: 'archive' },
};

function cluster(spec: object, name = 'orders'): ClusterManifest {
  return clusterSchema.parse({ apiVersion: CNPG_API, kind: 'Cluster', metadata: { name }, spec });
}
function objectStore(spec: object, name = 'store') {
  return objectStoreSchema.parse({
    apiVersion: BARMAN_PLUGIN_API,
    kind: 'ObjectStore',
    metadata: { name },
    spec,
  });
}
const plugin = (parameters: object, more: object = {}) => ({
  name: PLUGIN,
  isWALArchiver: true,
  parameters,
  ...more,
});
const by =
  (...stores: ReturnType<typeof objectStore>[]) =>
  (name: string) =>
    stores.find(({ metadata }) => metadata.name === name);
/** A Cluster without its plugins: what counts below. */
function effective({ spec, ...rest }: ClusterManifest) {
  const externalClusters = spec.externalClusters.map((entry) => ({ ...entry, plugin: undefined }));
  return { ...rest, spec: { ...spec, plugins: [], externalClusters } };
}

describe('an ObjectStore and a plugin that refers to it', () => {
  const some = <Value>(value: fc.Arbitrary<Value>) => fc.option(value, { nil: undefined });
  const word = fc.stringMatching(/^[a-z][a-z0-9]{0,8}$/);
  const configuration = fc
    .record({
      destinationPath: fc.constantFrom('s3://backups', 's3://backups/a/b', 'file:///srv/backups'),
      endpointURL: some(fc.constant('https://s3.example.org')),
      wal: some(
        fc.record({
          compression: some(fc.constantFrom('gzip', 'lz4')),
          maxParallel: some(fc.integer({ min: 1, max: 9 })),
        }),
      ),
      data: some(
        fc.record({ jobs: some(fc.integer({ min: 1, max: 9 })), immediateCheckpoint: some(fc.boolean()) }),
      ),
      tags: some(fc.dictionary(word, word, { maxKeys: 2 })),
    })
    .map(defined);
  const rest = fc.record({
    target: some(fc.constantFrom('primary', 'prefer-standby')),
    volumeSnapshot: some(fc.constant({ className: 'fast' })),
  });

  test('E5: say exactly what spec.backup.barmanObjectStore says, whatever it is', () => {
    fc.assert(
      fc.property(
        configuration,
        rest,
        some(word),
        some(fc.constantFrom('30d', '4w')),
        fc.boolean(),
        (inStore, backup, serverName, retentionPolicy, isWALArchiver) => {
          const given = defined(backup);
          const written = cluster({
            ...(Object.keys(given).length > 0 && { backup: given }),
            plugins: [plugin(defined({ barmanObjectName: 'store', serverName }), { isWALArchiver })],
            externalClusters: [
              {
                name: 'origin',
                plugin: { name: PLUGIN, parameters: { barmanObjectName: 'store', serverName: 'was' } },
              },
            ],
          });
          const direct = cluster({
            backup: defined({
              ...given,
              retentionPolicy,
              barmanObjectStore: defined({ ...inStore, serverName }),
            }),
            externalClusters: [{ name: 'origin', barmanObjectStore: { ...inStore, serverName: 'was' } }],
          });
          const find = by(objectStore(defined({ configuration: inStore, retentionPolicy })));
          const resolved = withObjectStores(written, find);
          expect(effective(resolved)).toEqual(effective(direct));
          // What is kept can be read again; what is shown is what was written, and means the same.
          expect(clusterSchema.parse(resolved)).toEqual(resolved);
          const shown = withoutObjectStores(resolved);
          expect(JSON.stringify(shown)).not.toContain('barmanObjectStore');
          expect(withObjectStores(shown, find)).toEqual(resolved);
        },
      ),
    );
  });

  it('a changed ObjectStore takes the place of what it said before, its retentionPolicy included', () => {
    const written = cluster({ plugins: [plugin({ barmanObjectName: 'store' })] });
    const before = withObjectStores(
      written,
      by(objectStore({ configuration: CONFIGURATION, retentionPolicy: '30d' })),
    );
    expect(before.spec.backup).toMatchObject({ retentionPolicy: '30d', barmanObjectStore: CONFIGURATION });
    const after = withObjectStores(
      before,
      by(objectStore({ configuration: { destinationPath: 's3://other' } })),
    );
    expect(after.spec.backup?.barmanObjectStore).toMatchObject({ destinationPath: 's3://other' });
    expect(after.spec.backup?.barmanObjectStore).not.toHaveProperty('tags');
    expect(after.spec.backup).not.toHaveProperty('retentionPolicy');
    expect(withObjectStores(before, () => undefined)).toEqual(before);
  });

  it('in externalClusters without serverName, the folder of the new cluster is read, as CNPG does', () => {
    const written = cluster({
      externalClusters: [
        { name: 'origin', plugin: { name: PLUGIN, parameters: { barmanObjectName: 'store' } } },
      ],
    });
    const { spec } = withObjectStores(written, by(objectStore({ configuration: CONFIGURATION })));
    expect(spec.externalClusters[0]?.barmanObjectStore?.serverName).toBe('orders');
  });
});

function defined(value: object) {
  return Object.fromEntries(Object.entries(value).filter(([, one]) => one !== undefined));
}

const STORE = `apiVersion: ${BARMAN_PLUGIN_API}
kind: ObjectStore
metadata: {name: store}
spec:
  retentionPolicy: 30d
  configuration: {destinationPath: s3://backups/postgres, s3Credentials: {inheritFromIAMRole: true}}
  instanceSidecarConfiguration: {retentionPolicyIntervalSeconds: 1800}
`;
const written = (spec: object, name = 'orders') =>
  stringify({ apiVersion: CNPG_API, kind: 'Cluster', metadata: { name }, spec });

describe('a set of manifests', () => {
  it('with a Cluster and its ObjectStore, in any order, is taken with a note of what that means', () => {
    const text = written({ plugins: [plugin({ barmanObjectName: 'store', serverName: 'shop' })] });
    for (const texts of [
      [STORE, text],
      [text, STORE],
    ]) {
      const loaded = loadTexts(texts);
      expect(told(loaded)).toEqual([
        expect.stringContaining(
          'note: spec.plugins[0]: WAL and backups go to s3://backups/postgres (server "shop"), as ObjectStore "store" says; kept for 30d',
        ),
      ]);
      const manifest = loaded.documents.find(({ kind }) => kind === 'Cluster')?.manifest;
      expect(manifest).toMatchObject({
        spec: {
          plugins: [{ parameters: { barmanObjectName: 'store' } }],
          backup: {
            retentionPolicy: '30d',
            barmanObjectStore: { destinationPath: 's3://backups/postgres', serverName: 'shop' },
          },
        },
      });
    }
  });

  it('finds the ObjectStore that was applied earlier; the one in the set goes before', () => {
    const text = written({ plugins: [plugin({ barmanObjectName: 'store' })] });
    const earlier = objectStore({ configuration: { destinationPath: 's3://earlier' } });
    const destination = (texts: readonly string[]) =>
      loadTexts(texts, { objectStores: [earlier] }).documents.flatMap(({ kind, manifest }) =>
        kind === 'Cluster' ? [manifest.spec.backup?.barmanObjectStore?.destinationPath] : [],
      );
    expect(destination([text])).toEqual(['s3://earlier']);
    expect(destination([text, STORE])).toEqual(['s3://backups/postgres']);
  });

  test.for<[string, object, string]>([
    ['nobody knows', { barmanObjectName: 'other' }, 'apply it on this host first'],
    ['is misspelt', { barmanObjectName: 'stor' }, 'did you mean "store"?'],
  ])(
    'that refers to an ObjectStore that %s is refused with the place and what to do',
    ([, parameters, fix]) => {
      const own = loadTexts([STORE, written({ plugins: [plugin(parameters)] })]);
      expect(own.documents).toEqual([]);
      expect(told(own, 'error')).toEqual([expect.stringMatching(/^b\.yaml:\d+: error: spec\.plugins\[0\]/)]);
      expect(told(own, 'error')[0]).toContain(fix);
      const external = loadTexts([
        STORE,
        written({ externalClusters: [{ name: 'origin', plugin: { name: PLUGIN, parameters } }] }),
      ]);
      expect(told(external, 'error')[0]).toContain(
        'spec.externalClusters[0].plugin.parameters.barmanObjectName',
      );
    },
  );

  it('an ObjectStore of another namespace is none', () => {
    const elsewhere = STORE.replace('{name: store}', '{name: store, namespace: prod}');
    const loaded = loadTexts([elsewhere, written({ plugins: [plugin({ barmanObjectName: 'store' })] })]);
    expect(told(loaded, 'error')[0]).toContain(
      'there is prod/store: an ObjectStore and its Clusters share a namespace',
    );
  });

  const direct = { barmanObjectStore: { destinationPath: 'file:///srv' } };
  test.for<[string, object, string]>([
    [
      'barmanObjectStore and the plugin as WAL archiver',
      { backup: direct, plugins: [plugin({ barmanObjectName: 'store' })] },
      'is the WAL archiver, and barmanObjectStore is too',
    ],
    [
      'two WAL archivers',
      { plugins: [plugin({ barmanObjectName: 'store' }), { name: 'klio.cnpg.io', isWALArchiver: true }] },
      'both say isWALArchiver',
    ],
    [
      'the Barman plugin twice',
      {
        plugins: [
          plugin({ barmanObjectName: 'store' }),
          plugin({ barmanObjectName: 'store' }, { isWALArchiver: false }),
        ],
      },
      'is there twice',
    ],
    [
      'a misspelt parameter, by which another folder would be written to',
      { plugins: [plugin({ barmanObjectName: 'store', servername: 'x' })] },
      'did you mean "serverName"?',
    ],
    ['a WAL archiver without a store', { plugins: [plugin({})] }, 'names no ObjectStore'],
    [
      'S2: a server name that leaves its folder',
      { plugins: [plugin({ barmanObjectName: 'store', serverName: '../other' })] },
      'spec.plugins[0].parameters.serverName',
    ],
    [
      'C5: a recovery from the archive it would go on with',
      {
        plugins: [plugin({ barmanObjectName: 'store' })],
        bootstrap: { recovery: { source: 'origin' } },
        externalClusters: [
          { name: 'origin', plugin: { name: PLUGIN, parameters: { barmanObjectName: 'store' } } },
        ],
      },
      'would archive into s3://backups/postgres/orders, the very repository it is recovered from',
    ],
    [
      'C5: the same, and what to do about it',
      {
        plugins: [plugin({ barmanObjectName: 'store' })],
        bootstrap: { recovery: { source: 'origin' } },
        externalClusters: [
          { name: 'origin', plugin: { name: PLUGIN, parameters: { barmanObjectName: 'store' } } },
        ],
      },
      'a serverName of its own: parameters.serverName',
    ],
  ])('with %s is refused', ([, spec, message]) => {
    const loaded = loadTexts([STORE, written(spec)]);
    expect(told(loaded, 'error').join('\n')).toContain(message);
    expect(loaded.documents).toEqual([]);
  });

  it('barmanObjectStore beside a plugin that is no WAL archiver counts, and no ObjectStore takes its place', () => {
    const plugins = [plugin({ barmanObjectName: 'store' }, { isWALArchiver: false })];
    const loaded = loadTexts([STORE, written({ backup: direct, plugins })]);
    expect(told(loaded, 'warning')).toEqual([
      expect.stringContaining('CNPG would archive by this plugin as well'),
    ]);
    const manifest = loaded.documents[1]?.manifest as ClusterManifest;
    expect(manifest.spec.backup?.barmanObjectStore?.destinationPath).toBe('file:///srv');
    expect(manifest.spec.plugins).toEqual([]);
  });

  it('a plugin of another name, or one that is switched off, is left alone', () => {
    const loaded = loadText(
      written({ backup: direct, plugins: [{ name: 'klio.cnpg.io' }, plugin({}, { enabled: false })] }),
    );
    expect(told(loaded).slice(1)).toEqual([
      expect.stringContaining('"klio.cnpg.io" is accepted; walkeep runs no plugins'),
    ]);
  });

  it('a parameter nobody knows and a retentionPolicy that would do nothing are told', () => {
    const spec = {
      backup: { retentionPolicy: '7d' },
      plugins: [plugin({ barmanObjectName: 'store', pace: 'x' })],
    };
    const loaded = loadTexts([STORE, written(spec)]);
    expect(told(loaded, 'warning').join('\n')).toMatch(/parameters\.pace: is no parameter/);
    expect(told(loaded, 'warning').join('\n')).toMatch(
      /retentionPolicy: has no part in it.*write it as spec\.retentionPolicy of the ObjectStore/s,
    );
    expect(loaded.documents[1]?.manifest).toMatchObject({ spec: { backup: { retentionPolicy: '30d' } } });
  });

  test.for([
    [
      'switched off',
      plugin({ barmanObjectName: 'store' }, { enabled: false }),
      'remove its "enabled: false"',
    ],
    [
      'misspelt',
      { ...plugin({ barmanObjectName: 'store' }), name: 'barman-cloud.cloudnativepg.io' },
      `did you mean "${PLUGIN}"?`,
    ],
  ] as const)(
    'the Barman plugin %s: it is told that nothing is archived, and what to do',
    ([, given, fix]) => {
      const warnings = told(loadTexts([STORE, written({ plugins: [given] })]), 'warning').join('\n');
      expect(warnings).toMatch(/nothing (of this cluster )?is archived or backed up/);
      expect(warnings).toContain(fix);
    },
  );

  it('an ObjectStore with base backups in zstd or WAL in xz is told of as a Cluster is', () => {
    const codecs = (text: string) =>
      loadText(text).problems.filter(({ field }) => field.endsWith('compression'));
    const byStore = codecs(
      'apiVersion: barmancloud.cnpg.io/v1\nkind: ObjectStore\nmetadata: {name: s}\nspec: {configuration: {destinationPath: file:///b, data: {compression: zstd}, wal: {compression: xz}}}\n',
    );
    expect(byStore.map(({ message }) => message)).toEqual([
      expect.stringContaining('within 60 s'),
      expect.stringMatching(/barman itself restores them from 3\.20 on, and CNPG refuses this value/),
    ]);
  });

  it('an entry of externalClusters whose plugin is switched off: it is told, and what to do', () => {
    const entry = { name: 'origin', plugin: plugin({ barmanObjectName: 'store' }, { enabled: false }) };
    const loaded = loadTexts([STORE, written({ backup: direct, externalClusters: [entry] })]);
    expect(told(loaded, 'warning').join('\n')).toMatch(
      /switched off: nothing is recovered by it.*"enabled: false"/s,
    );
  });

  it('an ObjectStore that names a server, or a key its Secret lacks, is told where', () => {
    const named = STORE.replace('{destinationPath', '{serverName: x, destinationPath');
    expect(told(loadText(named), 'error')[0]).toContain('spec.configuration.serverName');
    const keyed = STORE.replace(
      'inheritFromIAMRole: true',
      'accessKeyId: {name: keys, key: AI}, secretAccessKey: {name: keys, key: KEY}',
    );
    const secret = 'apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {ID: a, KEY: b}\n';
    expect(told(loadTexts([keyed, secret]), 'warning')[0]).toContain(
      'spec.configuration.s3Credentials.accessKeyId.key',
    );
  });
});

describe('a backup with method plugin', () => {
  const backup = (name: string, parameters = '') =>
    `apiVersion: ${CNPG_API}\nkind: Backup\nmetadata: {name: b}\nspec: {cluster: {name: orders}, method: plugin, pluginConfiguration: {name: ${name}${parameters}}}\n`;
  const options = { appliedClusters: ['default/orders'] };

  it('by the Barman plugin needs no word; by another one it is told that it fails', () => {
    expect(told(loadText(backup(PLUGIN), options))).toEqual([]);
    expect(told(loadText(backup('klio.cnpg.io'), options))).toEqual([
      expect.stringContaining('fails at once'),
    ]);
    expect(told(loadText(backup(PLUGIN, ', parameters: {a: b}'), options))[0]).toContain('are left aside');
  });
});
