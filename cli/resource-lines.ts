import type { ApplyResult } from '../workflows/interface.ts';

/** One line for an object, as kubectl says it. */
export function say(kind: string, name: string, what: string): void {
  process.stdout.write(`${kind}/${name} ${what}\n`);
}

/** As kubectl names them. */
export const RESOURCE = {
  Cluster: 'cluster.postgresql.cnpg.io',
  Backup: 'backup.postgresql.cnpg.io',
  ScheduledBackup: 'scheduledbackup.postgresql.cnpg.io',
  BackupPolicy: 'backuppolicy.walkeep.io',
  ScheduledVerification: 'scheduledverification.walkeep.io',
  ObjectStore: 'objectstore.barmancloud.cnpg.io',
} as const;

/** A policy of several clusters is said once. */
export function sayResult(result: ApplyResult, said: Set<string>, suffix = ''): void {
  for (const { kind, name, outcome } of result.objects) {
    const line = `${RESOURCE[kind]}/${name}`;
    if (kind === 'BackupPolicy' && said.has(line)) continue;
    said.add(line);
    say(RESOURCE[kind], name, `${outcome}${suffix}`);
  }
}
