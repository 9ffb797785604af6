import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it, test } from 'vitest';
import { loadManifests, type LoadOptions } from '../../manifests/load.ts';
import { nextRuns } from '../../core/cron.ts';
import { scheduleOf } from '../../manifests/schedule.ts';
import { toStoreRequest } from '../../manifests/object-store-location.ts';
import { NOW, told } from './load-text.ts';

/** The manifests people already have; CI lays them beside the clone. */
const FOLDER = new URL('../../../shared/manifests/', import.meta.url);
const present = existsSync(FOLDER);

function load(name: string, options: Partial<LoadOptions> = {}) {
  const text = readFileSync(new URL(name, FOLDER), 'utf8');
  return loadManifests([{ file: name, text }], { now: NOW, ...options });
}

const manifestsOf = (name: string, options?: Partial<LoadOptions>) =>
  load(name, options).documents.map(({ manifest }) => manifest);

if (!present) console.warn(`SKIPPED: the manifests people already have are not at ${FOLDER.pathname}`);

it('has the shared manifests beside the clone wherever CI=true', () => {
  expect(present || process.env['CI'] !== 'true').toBe(true);
});

describe.skipIf(!present)('the manifests that people already have', () => {
  test.for([
    '01-minimal-s3',
    '02-s3-credentials',
    '03-s3-irsa',
    '05-gcs',
    '06-gcs-workload-identity',
    '07-azure',
    '08-azure-managed-identity',
    '09-minio',
    '12-data',
    '17-retention',
  ])('%s is accepted', (name) => {
    const { documents, problems } = load(`${name}.yaml`);
    expect(documents).toHaveLength(1);
    expect(problems.filter(({ severity }) => severity === 'error')).toEqual([]);
  });

  test.for([
    '01-minimal-s3',
    '02-s3-credentials',
    '03-s3-irsa',
    '05-gcs',
    '06-gcs-workload-identity',
    '07-azure',
    '08-azure-managed-identity',
    '09-minio',
  ])('%s needs no word', (name) => {
    expect(load(`${name}.yaml`).problems).toEqual([]);
  });

  test.for(['10-wal-basic', '11-wal-advanced', '12-data', '17-retention'])(
    '%s is accepted with a warning: the chain of the provider, which CNPG would refuse',
    (name) => {
      const { documents, problems } = load(`${name}.yaml`);
      expect(documents).toHaveLength(1);
      expect(problems[0]).toMatchObject({
        severity: 'warning',
        field: 'spec.backup.barmanObjectStore',
        message: expect.stringMatching(/provider's own chain.*CNPG itself would refuse/),
      });
    },
  );

  it('11-wal-advanced: archiveTimeout is the wish for archive_timeout', () => {
    const { problems } = load('11-wal-advanced.yaml');
    expect(problems[1]).toMatchObject({
      line: 24,
      severity: 'warning',
      message: expect.stringContaining('archive_timeout: 300 s'),
    });
    expect(manifestsOf('11-wal-advanced.yaml')).toMatchObject([
      {
        spec: {
          backup: {
            barmanObjectStore: { wal: { archiveTimeout: '5m', compression: 'zstd', maxParallel: 8 } },
          },
        },
      },
    ]);
  });

  it('04-irsa-serviceaccount is accepted and not acted on', () => {
    const { foreign, documents, problems } = load('04-irsa-serviceaccount.yaml');
    expect(foreign).toMatchObject([{ kind: 'ServiceAccount', name: 'postgres-backup' }]);
    expect(documents).toEqual([]);
    expect(problems).toMatchObject([{ severity: 'note', message: expect.stringContaining('not acted on') }]);
  });

  it('13-volumesnapshot is accepted, and says that such a backup fails outside Kubernetes', () => {
    const { documents, problems } = load('13-volumesnapshot.yaml');
    expect(documents).toHaveLength(1);
    expect(problems).toMatchObject([
      { severity: 'warning', message: expect.stringContaining('outside Kubernetes fails at once') },
    ]);
  });

  it('14 and 15 run when their authors mean it, with the warning of how CNPG reads them', () => {
    const found = ['14-scheduledbackup-daily.yaml', '15-scheduledbackup-three.yaml'].flatMap(
      (name) => load(name).documents,
    );
    const next = found.flatMap((document) => {
      if (document.kind !== 'ScheduledBackup') return [];
      const { spec, timezone } = scheduleOf(document.manifest);
      return nextRuns(spec, NOW, 1, timezone).map((run) => run.toISOString());
    });
    expect(next).toEqual([
      '2026-01-22T00:00:00.000Z',
      '2026-01-21T11:00:00.000Z',
      '2026-01-22T02:00:00.000Z',
      '2026-01-25T03:00:00.000Z',
    ]);
    const warnings = load('15-scheduledbackup-three.yaml').problems.filter(
      ({ field }) => field === 'spec.schedule',
    );
    expect(warnings.map(({ line }) => line)).toEqual([7, 18, 29]);
    expect(
      warnings.every(({ message }) => message.includes('CNPG itself takes the first field as seconds')),
    ).toBe(true);
  });

  it('15: backupOwnerReference none does not mean kept for ever, and the warning says what would', () => {
    expect(load('15-scheduledbackup-three.yaml').problems.find(({ line }) => line === 32)).toMatchObject({
      severity: 'warning',
      message: expect.stringContaining('does not keep backups for ever'),
      fix: expect.stringMatching(/walkeep\.io\/hold.*BackupPolicy/),
    });
  });

  test.for([
    '14-scheduledbackup-daily',
    '15-scheduledbackup-three',
    '16-backup-manual',
    '23-backup-pre-migration',
  ])('%s names a Cluster that no file defines: accepted with a warning', (name) => {
    const { documents, problems } = load(`${name}.yaml`);
    expect(documents.length).toBeGreaterThan(0);
    const unknown = problems.filter(({ field }) => field === 'spec.cluster.name');
    expect(unknown).toHaveLength(documents.length);
    expect(unknown[0]).toMatchObject({
      severity: 'warning',
      message: expect.stringContaining('pending until it comes'),
    });
  });

  it('21-production-duplicate-key is refused with both lines and what each holds', () => {
    const { documents, problems } = load('21-production-duplicate-key.yaml');
    expect(documents).toEqual([]);
    expect(problems.filter(({ severity }) => severity === 'error')).toMatchObject([
      {
        line: 26,
        field: 'spec.backup',
        message:
          '"backup" is given twice: line 26 holds retentionPolicy, barmanObjectStore (destinationPath, endpointURL, s3Credentials, wal, data); line 59 holds barmanObjectStore (serverName)',
        fix: expect.stringContaining('--merge-duplicate-keys'),
      },
    ]);
  });

  it('21-production-duplicate-key, merged, means what 21-production-merged means', () => {
    const merged = manifestsOf('21-production-duplicate-key.yaml', { mergeDuplicateKeys: true });
    expect(merged).toHaveLength(3);
    expect(merged).toEqual(manifestsOf('21-production-merged.yaml'));
  });

  it('21-production-merged is accepted, with a note on barman 3.20', () => {
    const { documents, problems } = load('21-production-merged.yaml');
    expect(documents.map(({ kind }) => kind)).toEqual(['Cluster', 'ScheduledBackup', 'ScheduledBackup']);
    expect(problems.filter(({ severity }) => severity === 'note')).toMatchObject([
      { line: 54, message: expect.stringContaining('from 3.20 on') },
    ]);
  });

  it('22-restore-test-cluster restores server production-postgres to the end of its WAL', () => {
    const { documents, problems } = load('22-restore-test-cluster.yaml');
    expect(told({ documents, foreign: [], count: 1, problems })).toEqual([
      '22-restore-test-cluster.yaml:12: note: spec.bootstrap.recovery: recovers server "production-postgres" in s3://company-backups/postgres/production/, to the end of its WAL',
    ]);
    const [document] = documents;
    if (document?.kind !== 'Cluster') throw new Error('expected a Cluster');
    const [entry] = document.manifest.spec.externalClusters;
    if (!entry?.barmanObjectStore) throw new Error('expected a store');
    expect(toStoreRequest(entry.barmanObjectStore, entry.name)).toMatchObject({
      server: 'production-postgres',
      destination: { bucket: 'company-backups', prefix: 'postgres/production' },
    });
  });

  test.for([
    ['20-prometheus-rules.yaml', 'alert rules for Prometheus'],
    ['24-s3-lifecycle.json', 'lifecycle rules of a bucket'],
  ] as const)('%s is no manifest, and told for what it is', ([name, what]) => {
    expect(load(name).problems).toMatchObject([
      { severity: 'error', message: expect.stringContaining(what) },
    ]);
  });
});
