import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

/**
 * What walkeep writes into what it restored, to begin the recovery: its `pg_control` names no checkpoint, so that nothing
 * starts without the label.
 */
const OF_A_RECOVERY = new Set([
  'global/pg_control',
  'postgresql.auto.conf',
  'recovery.signal',
  'walkeep_recovery.json',
]);

/** Every file below a restored directory, its tablespaces included, by path: a hash of its content. */
export function filesOf(pgdata: string): Record<string, string> {
  const files: Record<string, string> = {};
  const look = (path: string, name: string): void => {
    for (const entry of readdirSync(path)) {
      const [at, as] = [join(path, entry), name === '' ? entry : `${name}/${entry}`];
      // the links of tablespaces lead to where each restore was told to put them
      const about = as.startsWith('pg_tblspc/') ? statSync(at) : lstatSync(at);
      if (about.isDirectory()) look(at, as);
      else if (!OF_A_RECOVERY.has(as))
        files[as] = createHash('sha256').update(readFileSync(at)).digest('hex');
    }
  };
  look(pgdata, '');
  return files;
}
