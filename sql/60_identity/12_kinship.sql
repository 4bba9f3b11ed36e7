-- Degrees of kinship (A8).

-- Families (A8): whom a member may invite, how the invited register, and what they may then see
-- and spend of the member's points.

create function loyalty.degree_of_kinship(relation text) returns integer
    language sql immutable parallel safe
    return (
        select r.degree
          from (values ('spouse', 0),
                       ('parent', 1), ('child', 1), ('parent_in_law', 1), ('stepchild', 1),
                       ('sibling', 2), ('grandparent', 2), ('grandchild', 2),
                       ('sibling_in_law', 2), ('grandparent_in_law', 2), ('step_grandchild', 2)
               ) as r (relation, degree)
         where r.relation = degree_of_kinship.relation);
comment on function loyalty.degree_of_kinship is
    'Degree of kinship of what somebody is to a member: 0 for a spouse, 1 and 2 for relatives of the member or, by the names with in_law and step, of the spouse (A8); null for anything else.';
