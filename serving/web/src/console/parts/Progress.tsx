/** A bar of progress; `unknown` where nobody can say how much there is. */
export function Progress(props: { label: string; done: number; of: number; unknown?: boolean }) {
  const { label, done, of, unknown = false } = props;
  return <progress aria-label={label} max={of || 1} {...(unknown ? {} : { value: done })} />;
}
