import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { clusterSchema } from '../../manifests/cluster.ts';
import { clusterWith, loadExamples, loadText, loadTexts, told } from './load-text.ts';

const BACKUP = `apiVersion: postgresql.cnpg.io/v1
kind: Backup
metadata: {name: before-migration}
spec: {cluster: {name: orders}}
`;
const CLUSTER = clusterWith('backup: {barmanObjectStore: {destinationPath: "file:///srv/backups"}}');

describe('a set of manifests', () => {
  it('is read whole, in its order, with the line where each begins', () => {
    const { documents, problems } = loadTexts([
      `# Orders\n---\n${CLUSTER}---\n---\n# nothing\n---\n${BACKUP}`,
    ]);
    expect(documents.map(({ kind, line, manifest }) => [kind, manifest.metadata.name, line])).toEqual([
      ['Cluster', 'orders', 3],
      ['Backup', 'before-migration', 12],
    ]);
    expect(problems.filter(({ severity }) => severity !== 'note')).toEqual([]);
  });

  it('is refused whole when one document is', () => {
    const { documents, count, problems } = loadTexts([CLUSTER, BACKUP.replace('cluster:', 'clustr:')]);
    expect(documents).toEqual([]);
    expect(count).toBe(2);
    expect(problems.filter(({ severity }) => severity === 'error')).toMatchObject([
      { file: 'b.yaml', line: 4, field: 'spec.clustr', fix: 'did you mean "cluster"?' },
      { file: 'b.yaml', line: 4, field: 'spec.cluster', message: 'cluster is missing' },
    ]);
  });

  it('may be JSON, a List, and what the API server exports', () => {
    const list = {
      apiVersion: 'v1',
      kind: 'List',
      items: [
        {
          apiVersion: 'postgresql.cnpg.io/v1',
          kind: 'Backup',
          metadata: { name: 'a', creationTimestamp: null, managedFields: [], uid: 'x' },
          spec: { cluster: { name: 'orders' } },
          status: { phase: 'completed' },
        },
        { apiVersion: 'postgresql.cnpg.io/v1', kind: 'Backup', metadata: { name: 'b' }, spec: {} },
      ],
    };
    const text = JSON.stringify(list, undefined, '\t');
    const line = text.split('\n').findIndex((content) => content.includes('"spec": {}')) + 1;
    const { problems } = loadText(text);
    expect(problems.filter(({ severity }) => severity === 'error')).toMatchObject([
      { line, field: 'items[1].spec.cluster', message: 'cluster is missing' },
    ]);
    const { documents } = loadText(JSON.stringify({ ...list, items: list.items.slice(0, 1) }));
    expect(documents.map(({ manifest }) => manifest.metadata.name)).toEqual(['a']);
  });

  it('takes the namespace of -n, and refuses an object that names another', () => {
    expect(loadText(CLUSTER).documents[0]?.manifest.metadata.namespace).toBe('default');
    expect(loadText(CLUSTER, { namespace: 'shop' }).documents[0]?.manifest.metadata.namespace).toBe('shop');
    const other = loadText(CLUSTER.replace('{name: orders}', '{name: orders, namespace: test}'), {
      namespace: 'shop',
    });
    expect(told(other, 'error')).toEqual([
      'a.yaml:3: error: metadata.namespace: "test" is not the namespace asked for with -n: "shop"\n    leave -n out, or correct one of the two',
    ]);
  });

  it('names an object that is in it twice, with both places', () => {
    const { problems } = loadTexts([BACKUP, BACKUP], { appliedClusters: ['default/orders'] });
    expect(problems).toMatchObject([
      {
        file: 'b.yaml',
        line: 3,
        message: 'Backup default/before-migration is in the set twice: here and at a.yaml:1',
      },
    ]);
  });

  it('warns of a Cluster that nobody knows, and is silent about one that was applied', () => {
    const { problems, documents } = loadTexts([BACKUP], {
      appliedClusters: ['default/order', 'test/orders'],
    });
    expect(documents).toHaveLength(1);
    expect(problems).toMatchObject([
      { severity: 'warning', line: 4, field: 'spec.cluster.name', fix: 'did you mean "order"?' },
    ]);
    expect(loadTexts([BACKUP], { appliedClusters: ['default/orders'] }).problems).toEqual([]);
    expect(loadTexts([CLUSTER, BACKUP]).problems.filter(({ severity }) => severity === 'warning')).toEqual(
      [],
    );
  });

  it('accepts kinds of others and leaves them alone', () => {
    const texts = ['ConfigMap', 'ServiceAccount'].map(
      (kind) => `apiVersion: v1\nkind: ${kind}\nmetadata: {name: x}\n`,
    );
    const pooler = 'apiVersion: postgresql.cnpg.io/v1\nkind: Pooler\nmetadata: {name: x}\n';
    const rules = 'apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: x}\n';
    const velero = 'apiVersion: velero.io/v1\nkind: Backup\nmetadata: {name: x}\n';
    const { foreign, problems } = loadTexts([...texts, pooler, rules, velero]);
    expect(foreign.map(({ kind }) => kind)).toEqual([
      'ConfigMap',
      'ServiceAccount',
      'Pooler',
      'PrometheusRule',
      'Backup',
    ]);
    expect(problems.every(({ severity }) => severity === 'note')).toBe(true);
  });

  test.for([
    ['Backups', 'postgresql.cnpg.io/v1', 'did you mean "Backup"?'],
    ['Scheduledbackup', 'postgresql.cnpg.io/v1', 'did you mean "ScheduledBackup"?'],
    ['Cluster', 'postgresql.cnpg.io/v1beta1', 'did you mean postgresql.cnpg.io/v1?'],
    ['Cluster', 'postgres.cnpg.io/v1', 'did you mean postgresql.cnpg.io/v1?'],
    ['Cluster', 'v1', 'write apiVersion: postgresql.cnpg.io/v1'],
    ['BackupPolicies', 'walkeep.io/v1', 'did you mean "BackupPolicy"?'],
  ] as const)('refuses %s of %s', ([kind, apiVersion, fix]) => {
    const { problems, documents } = loadText(
      `apiVersion: ${apiVersion}\nkind: ${kind}\nmetadata: {name: x}\n`,
    );
    expect(problems).toMatchObject([{ severity: 'error', fix }]);
    expect(documents).toEqual([]);
  });

  test.for([
    [
      'alert rules',
      'groups:\n  - name: x\n',
      'apiVersion and kind are missing; it looks like alert rules for Prometheus',
    ],
    ['lifecycle rules', '{"Rules": []}', 'it looks like the lifecycle rules of a bucket'],
    ['text', 'hello', 'is no manifest but the text "hello"'],
    ['a list', '- a\n- b\n', 'is no manifest but a list'],
    ['a misspelt kind', 'apiVersion: v1\nkin: Secret\n', 'kind is missing'],
  ] as const)('says what is wrong with %s', ([, text, message]) => {
    const { problems } = loadText(text);
    expect(problems).toMatchObject([
      { line: 1, severity: 'error', message: expect.stringContaining(message) },
    ]);
  });

  it('says that a file holds nothing', () => {
    expect(told(loadText('# only a comment\n'))).toEqual(['a.yaml:1: warning: holds no document']);
  });

  it('refuses generateName, whose Backup would be taken again at each apply', () => {
    const { problems } = loadText(BACKUP.replace('{name: before-migration}', '{generateName: b-}'));
    expect(problems).toMatchObject([{ field: 'metadata.generateName', fix: 'write metadata.name' }]);
  });
});

describe('YAML itself', () => {
  test.for([
    ['an unquoted star', 'spec:\n  schedule: * * * * *\n', 2, '"* * * * *"'],
    ['an unquoted @', 'spec:\n  schedule: @daily\n', 2, '"@daily"'],
    ['a tab', 'spec:\n\tx: 1\n', 2, 'use spaces'],
    ['an open quote', 'spec:\n  x: "abc\n  y: 1\n', 4, 'check quotes'],
    ['a tag', 'spec: !vault abc\n', 1, 'put the value in quotes'],
    ['bad indentation', 'spec:\n    x: 1\n  y: 2\n', 3, 'align it'],
    ['a colon in a text', 'spec:\n  x: a: b\n', 2, 'in quotes'],
  ] as const)('%s is told with its line and what to do', ([, text, line, fix]) => {
    const { problems } = loadText(text);
    expect(problems).toMatchObject([{ line, severity: 'error', fix: expect.stringContaining(fix) }]);
  });

  test.for([
    ['{{ .Values.name }}: 1\n', 'a key is a map, a list or a reference'],
    ['a: &x {b: 1}\n*x : 2\n', 'a key is a map, a list or a reference'],
    ['? <<: \n', 'a key is a map, a list or a reference'],
    ['a: {<<: text}\n', '<< is followed by something that is no map'],
  ] as const)('refuses %s', ([text, message]) => {
    expect(loadText(text).problems).toMatchObject([{ line: expect.any(Number), severity: 'error', message }]);
  });

  it('S2: a bomb of aliases is refused, quickly', () => {
    const layers = Array.from(
      { length: 12 },
      (_, i) =>
        `l${i}: &l${i} [${Array(9)
          .fill(i === 0 ? 'x' : `*l${i - 1}`)
          .join()}]`,
    );
    expect(told(loadText(layers.join('\n')))[0]).toContain('refers to its own parts');
  });

  it('takes anchors and merge keys, as kubectl does', () => {
    const { documents } = loadText(
      clusterWith(
        `backup:\n  barmanObjectStore:\n    destinationPath: s3://backups/x\n    s3Credentials:\n      accessKeyId: &key {name: s3, key: A}\n      secretAccessKey: {<<: *key, key: B}`,
      ),
    );
    expect(documents[0]?.manifest).toMatchObject({
      spec: {
        backup: { barmanObjectStore: { s3Credentials: { secretAccessKey: { name: 's3', key: 'B' } } } },
      },
    });
  });

  it('takes yes and no for booleans, and a byte-order mark and CRLF for nothing', () => {
    const text = `\uFEFF${BACKUP.replace('{cluster: {name: orders}}', '\n  cluster: {name: orders}\n  method: volumeSnapshot\n  online: yes')}`;
    const { documents } = loadText(text.replace(/\n/g, '\r\n'));
    expect(documents[0]?.manifest).toMatchObject({ spec: { online: true } });
  });

  it('never throws, whatever the text', () => {
    const piece = fc.oneof(
      fc.string(),
      fc.constantFrom(
        'apiVersion: postgresql.cnpg.io/v1\n',
        'kind: Cluster\n',
        'spec:\n',
        '  ',
        '- ',
        '{',
        '}',
        '---\n',
        '&a ',
        '*a',
        '<<: ',
        '__proto__: ',
        'constructor: 1\n',
        ': ',
        '"',
        '\t',
        '? ',
      ),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 20 }), fc.boolean(), (pieces, mergeDuplicateKeys) => {
        const { documents, problems } = loadText(pieces.join(''), { mergeDuplicateKeys });
        expect(documents.length === 0 || problems.every(({ severity }) => severity !== 'error')).toBe(true);
      }),
      { numRuns: 500 },
    );
  });
});

describe('duplicated keys', () => {
  it('are refused with both lines and what each holds', () => {
    expect(told(loadExamples(['production-duplicate-key.yaml']))).toEqual([
      'production-duplicate-key.yaml:10: error: spec.backup: "backup" is given twice: line 10 holds retentionPolicy, barmanObjectStore (destinationPath, s3Credentials, wal); line 19 holds target, barmanObjectStore (serverName, wal)\n' +
        '    put everything below one "backup:", or apply with --merge-duplicate-keys, which does that',
    ]);
  });

  it('mean, when merging is asked for, what one key with everything means', () => {
    const merged = loadExamples(['production-duplicate-key.yaml'], { mergeDuplicateKeys: true });
    const written = loadExamples(['production-merged.yaml']);
    expect(merged.documents.map(({ manifest }) => manifest)).toEqual(
      written.documents.map(({ manifest }) => manifest),
    );
    expect(merged.documents).toHaveLength(2);
    expect(told(merged, 'note')[0]).toBe(
      'production-duplicate-key.yaml:10: note: spec.backup: "backup" is given twice (lines 10 and 19): merged',
    );
  });

  it('are refused even then where two values differ', () => {
    const conflict = 'spec.backup.retentionPolicy (line 7 holds "14d"; line 11 holds "30d")';
    expect(told(loadExamples(['conflicting-keys.yaml'], { mergeDuplicateKeys: true }))).toEqual([
      `conflicting-keys.yaml:10: error: spec.backup.retentionPolicy: can't be merged: ${conflict}\n    keep one of the two values`,
    ]);
    expect(told(loadExamples(['conflicting-keys.yaml']))[0]).toContain(
      `keep one of them: they differ in ${conflict}`,
    );
  });

  it('of two documents run together are told as such', () => {
    const { problems } = loadText(`${BACKUP}${BACKUP}`);
    expect(problems[0]).toMatchObject({ fix: 'if these are two documents, write a line --- between them' });
  });

  it('are found below other duplicates, three times, and in lists', () => {
    const thrice = loadText('a: 1\nb:\n  - {c: 1, c: 1}\n  - 2\na: 1\na: 1\n');
    expect(thrice.problems.map(({ field, message }) => [field, message])).toEqual([
      ['a', '"a" is given 3 times: line 1 holds "1"; line 5 holds "1"; line 6 holds "1"'],
      ['b[0].c', '"c" is given twice: line 3 holds "1"; line 3 holds "1"'],
    ]);
  });

  it('S1: do not show values of a Secret, nor of a field that sounds like one', () => {
    const secret =
      'apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData:\n  A: hunter2\n  A: hunter3\n';
    const password = clusterWith(
      'externalClusters:\n  - name: x\n    connectionParameters: {password: hunter2, password: hunter3}',
    );
    const all = [secret, password].flatMap((text) => [
      ...told(loadText(text)),
      ...told(loadText(text, { mergeDuplicateKeys: true })),
    ]);
    expect(all.length).toBeGreaterThanOrEqual(4);
    expect(all.join('\n')).not.toContain('hunter');
  });
});

describe('Secret documents', () => {
  it('S1: are read into values that print a mask', () => {
    const { documents } = loadExamples(['secret.yaml']);
    const [document] = documents;
    if (document?.kind !== 'Secret') throw new Error('expected a Secret');
    expect(document.manifest.values.get('ACCESS_KEY_ID')?.reveal()).toBe('ACCESS-HUNTER');
    expect(document.manifest.values.get('SECRET_ACCESS_KEY')?.reveal()).toBe('hunter2');
    expect(JSON.stringify(documents)).not.toMatch(/hunter/i);
  });

  test.for([
    ['data: {A: "hunter2 !"}', 'data.A', 'is not base64'],
    ['stringData: {A: 4711}', 'stringData.A', 'text is expected, found a number'],
    ['stringData: {"../A": hunter2}', 'stringData["../A"]', 'can not be a key'],
    ['stringData: {"..": hunter2}', 'stringData[".."]', 'can not be a key'],
    ['type: Opaque', '', 'holds no values'],
  ] as const)('%s is refused without showing a value', ([line, field, message]) => {
    const loaded = loadText(`apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n${line}\n`);
    expect(loaded.problems).toMatchObject([
      { field, severity: 'error', message: expect.stringContaining(message) },
    ]);
    expect(JSON.stringify(loaded)).not.toMatch(/hunter|4711/);
  });

  it('that lack the key a Cluster asks for are told before anything runs', () => {
    const secret =
      'apiVersion: v1\nkind: Secret\nmetadata: {name: s3-credentials}\nstringData: {ACCES_KEY_ID: a, SECRET_ACCESS_KEY: b}\n';
    const { problems } = loadTexts([
      secret,
      clusterWith(
        'backup: {barmanObjectStore: {destinationPath: "s3://b/p", s3Credentials: {accessKeyId: {name: s3-credentials, key: ACCESS_KEY_ID}, secretAccessKey: {name: s3-credentials, key: SECRET_ACCESS_KEY}}}}',
      ),
    ]);
    expect(problems).toMatchObject([
      {
        severity: 'warning',
        message: 'Secret "s3-credentials" of this set has no key "ACCESS_KEY_ID"',
        fix: 'did you mean "ACCES_KEY_ID"?',
      },
    ]);
  });
});

describe('a Cluster', () => {
  it('names misspelt fields with what was meant, all at once', () => {
    expect(told(loadExamples(['misspelt.yaml']))).toEqual([
      'misspelt.yaml:6: warning: spec.instnces: CNPG has no such field; walkeep ignores it\n    did you mean "instances"?',
      'misspelt.yaml:10: error: spec.backup.retentionPolcy: there is no such field\n    did you mean "retentionPolicy"?',
      'misspelt.yaml:13: error: spec.backup.barmanObjectStore.compression: there is no such field\n    it belongs below wal or data: indent it',
      'misspelt.yaml:15: error: spec.backup.barmanObjectStore.wal.compression: "ztsd" is not allowed here\n    did you mean "zstd"? allowed are "bzip2", "gzip", "lz4", "snappy", "xz" or "zstd"',
    ]);
  });

  test.for([
    ['bakcup: {}', 'spec.bakcup', 'did you mean "backup"?'],
    ['barmanObjectStore: {}', 'spec.barmanObjectStore', 'it belongs below spec.backup: indent it'],
    ['recovery: {source: x}', 'spec.recovery', 'it belongs below spec.bootstrap: indent it'],
    ['bootstrap: {recvery: {}}', 'spec.bootstrap.recvery', 'did you mean "recovery"?'],
    [
      'backup: {barmanObjectStore: {destinationPath: "file:///b", data: {maxParallel: 2}}}',
      'spec.backup.barmanObjectStore.data.maxParallel',
      'known here',
    ],
    [
      'backup: {barmanObjectStore: {destinationPath: "file:///b", wal: {endpointURL: "http://x"}}}',
      'spec.backup.barmanObjectStore.wal.endpointURL',
      'it belongs one level further out: check the indentation',
    ],
  ] as const)('refuses %s: it must not pass for a field walkeep leaves alone', ([spec, field, fix]) => {
    const { problems, documents } = loadText(clusterWith(spec));
    expect(problems.filter(({ severity }) => severity === 'error')).toMatchObject([
      { field, fix: expect.stringContaining(fix) },
    ]);
    expect(documents).toEqual([]);
  });

  it('refuses backup at the top of the document', () => {
    const { problems } = loadText(`${clusterWith('instances: 1')}backup: {}\n`);
    expect(problems.find(({ severity }) => severity === 'error')).toMatchObject({
      field: 'backup',
      fix: 'it belongs below spec: indent it',
    });
  });

  it('may hold anything of CNPG that walkeep leaves alone', () => {
    const { problems } = loadText(
      clusterWith(
        'instances: 3\nimageName: postgres:16\nstorage: {size: 1Gi, odd: 1}\nwalStorage: {size: 1Gi}\nmonitoring: {enablePodMonitor: true}\naffinity: {a: b}\nreplicationSlots: {}\nbackup: {barmanObjectStore: {destinationPath: "file:///b"}}',
      ),
    );
    expect(problems.filter(({ severity }) => severity !== 'note')).toEqual([]);
  });

  it('says that nothing is backed up without spec.backup', () => {
    const { problems } = loadText(clusterWith('instances: 1'));
    expect(problems).toMatchObject([
      { severity: 'warning', message: expect.stringContaining('there is no spec.backup') },
    ]);
  });

  it('says which sections are empty, and takes them as not given', () => {
    const { problems } = loadText(
      clusterWith(
        'backup:\n  barmanObjectStore:\n    destinationPath: file:///b\n    wal:\n    # compression: gzip',
      ),
    );
    expect(problems).toMatchObject([
      { severity: 'note' },
      {
        severity: 'warning',
        field: 'spec.backup.barmanObjectStore.wal',
        message: 'is empty and taken as not given',
      },
    ]);
  });

  it('S1: keeps nothing that may be secret: it goes into files and histories', () => {
    const { documents } = loadText(
      clusterWith(
        `env: [{name: PGPASSWORD, value: hunter2}]
postgresql: {parameters: {primary_conninfo: password=hunter2, archive_timeout: 60}, ldap: {bindPassword: hunter2}}
bootstrap: {initdb: {secret: {name: hunter2}}}
externalClusters: [{name: x, connectionParameters: {host: h, password: hunter2}}]`,
      ).replace(
        '{name: orders}',
        '{name: orders, annotations: {kubectl.kubernetes.io/last-applied-configuration: hunter2, cnpg.io/hibernation: "off"}}',
      ),
    );
    expect(documents).toHaveLength(1);
    expect(JSON.stringify(documents)).not.toContain('hunter2');
    expect(documents[0]?.manifest).toMatchObject({
      metadata: { annotations: { 'cnpg.io/hibernation': 'off' } },
      spec: { postgresql: { parameters: { archive_timeout: '60' } } },
    });
  });

  it('read back from JSON is the same, with its defaults', () => {
    for (const file of ['production-merged.yaml', 'recovery.yaml']) {
      const manifest = loadExamples([file]).documents[0]?.manifest;
      expect(clusterSchema.parse(JSON.parse(JSON.stringify(manifest)))).toEqual(manifest);
    }
    expect(loadExamples(['production-merged.yaml']).documents[0]?.manifest).toMatchObject({
      spec: {
        backup: {
          target: 'primary',
          barmanObjectStore: {
            wal: { compression: 'zstd', maxParallel: 4 },
            data: { jobs: 2, immediateCheckpoint: false },
          },
        },
      },
    });
  });
});
